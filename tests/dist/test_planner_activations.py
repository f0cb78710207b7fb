"""What the planner says is kept for the backward pass is what autograd keeps, within 5 %.

Random models of every family, in random layouts of up to four ranks, under random recomputation, each rank of
each held against the real `Policy` there. What is kept is what `saved_tensors_hooks` sees of a forward pass,
each storage once: neither parameters nor what lives anyway (the row itself, Megatron's tables of rotary
angles); and what a stage hands on, which Megatron's schedule holds. How many tokens a rank's experts got is
random, so it is counted and told to the planner, which else takes their equal share.
"""

from __future__ import annotations

import random
import weakref
from statistics import fmean, median
from typing import Any

import pytest
from support.models import Text, random_dense_fields, random_fields, random_texts, samples_of
from support.ranks import free_ports, layout, plan_of, run_ranks

LAYOUTS: dict[int, list[dict[str, int]]] = {
    1: [{}],
    2: [
        {"tp": 2},
        {"pp": 2},
        {"pp": 2, "vpp": 2},
        {"cp": 2},
        {"ep": 2},
        {"tp": 2, "ep": 2},
        {"dp": 2, "etp": 2},
    ],
    4: [
        {"tp": 2, "ep": 2, "dp": 2},
        {"tp": 2, "ep": 2, "etp": 2},
        {"pp": 2, "vpp": 2, "ep": 2},
        {"cp": 2, "pp": 2},
        {"cp": 2, "tp": 2},
        {"pp": 4},
    ],
}
KINDS = ("deepseek_v3", "llama", "deepseek_v3", "qwen3_moe", "qwen3", "deepseek_v3", "qwen2")
CASES_A_LAYOUT = {1: 12, 2: 4, 4: 3}
LATENT = ("core_attn", "mla_up_proj", "mlp", "moe", "shared_experts")
LIMIT = 0.01
"""Of a forward pass; the bar is 5 %."""
IN_FLIGHT_LIMIT = 0.05
"""Of all of them together: no two are routed alike."""

Case = tuple[dict[str, Any], list[str], int]
"""A model's HF fields, what is computed again, and the seed of its texts."""


def cases() -> dict[int, list[tuple[dict[str, int], list[Case]]]]:
    """By number of ranks, each layout with its cases; every family in turn, a scalar head now and then."""
    draw = random.Random(11)
    number = 0
    found: dict[int, Any] = {}
    for ranks, layouts in LAYOUTS.items():
        for degrees in layouts:
            of_layout: list[Case] = []
            while len(of_layout) < CASES_A_LAYOUT[ranks]:
                kind = KINDS[number % len(KINDS)]
                number += 1
                if kind in ("deepseek_v3", "qwen3_moe") or not degrees.keys() & {"ep", "etp"}:
                    fields = model(draw, kind, degrees)
                    of_layout.append((fields, recomputed(draw, fields), number))
            found.setdefault(ranks, []).append((degrees, of_layout))
    return found


def model(draw: random.Random, kind: str, degrees: dict[str, int]) -> dict[str, Any]:
    """A random model of a family, which the layout can divide."""
    from r1mega.model.family import family_of, with_scalar_head
    from r1mega.parallel.plan import faults_for

    least = degrees.get("pp", 1) * degrees.get("vpp", 1)
    fixed: dict[str, Any] = {
        "num_hidden_layers": draw.randint(max(2, least), least + 2),
        "divisible_by": degrees.get("tp", 1),
    }
    make = random_fields if kind == "deepseek_v3" else lambda *a, **f: random_dense_fields(a[0], kind, **f)
    fields = make(draw, **fixed)
    if faults_for(plan_of(**degrees), family_of(fields).shape(fields)):
        return model(draw, kind, degrees)
    return with_scalar_head(fields) if draw.random() < 0.15 else fields


def recomputed(draw: random.Random, fields: dict[str, Any]) -> list[str]:
    """Nothing, whole layers, or some of the modules that a model has."""
    modules = {
        "deepseek_v3": LATENT,
        "qwen3_moe": ("core_attn", "moe"),
    }.get(fields["model_type"], ("core_attn", "mlp"))
    some = draw.sample(modules, draw.randint(1, len(modules)))
    return draw.choice([[], ["full"], some, some])


def run(ports: list[int], layouts: list[Any]) -> list[list[dict[str, Any]]]:
    """On every rank: what is measured of each case of each layout."""
    found = []
    for port, (degrees, of_layout) in zip(ports, layouts, strict=True):
        with layout(port, **degrees) as plan:
            found.append([measure(case, plan) for case in of_layout])
    return found


def measure(case: Case, plan: Any) -> dict[str, Any]:
    """On this rank, each forward pass's bytes with all that they depend on, and the most at a time."""
    import torch

    from r1mega import policy as module
    from r1mega.config import Config, OptimizerConfig, Stage, TrainConfig

    fields, recompute, seed = case
    draw = random.Random(seed)
    texts, tokens = samples_for(draw, fields, plan)
    train = TrainConfig(tokens_per_microbatch=tokens, recompute=recompute)
    policy = module.Policy(Config(stage=Stage.grpo, name="test", train=train), fields, plan)
    policy.start_training(OptimizerConfig(lr=1e-3), updates=10)
    samples = samples_of(texts)
    values = {"weights": [torch.rand(one.answer_tokens) for one in samples]}
    meter = Meter(policy)
    forward_step, module._forward_step = module._forward_step, meter.forward_step(module._forward_step)
    try:
        with torch.autograd.graph.saved_tensors_hooks(meter.keep, lambda kept: kept.tensor):
            policy.backward(samples, values, weighted, mtp_loss_weight=0.3)
    finally:
        module._forward_step = forward_step
    return {"passes": meter.passes, "most": meter.most, "microbatches": meter.microbatches}


def samples_for(draw: random.Random, fields: dict[str, Any], plan: Any) -> tuple[list[Text], int]:
    """Samples, and the tokens of a micro-batch.

    In a pipeline all rows are alike, so that each micro-batch in flight is as large as any other.
    """
    if plan.pp == 1:
        return random_texts(draw, fields["vocab_size"], 6 * plan.dp), 96
    length, together = draw.randint(10, 40), draw.randint(1, 3)
    texts = [
        ([draw.randrange(fields["vocab_size"]) for _ in range(length)], draw.randint(1, length - 1))
        for _ in range(6 * together * plan.dp)
    ]
    tokens = together * plan.padded(length)
    return texts, tokens + -tokens % plan.row_multiple


def weighted(logps_T: Any, values: Any) -> Any:
    loss = -(logps_T * values["weights"]).sum()
    return loss, {"loss": loss.detach()}


class Saved:
    """A tensor that autograd holds through us, as long as it holds it."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor


class Meter:
    """Counts what forward passes keep."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.live: weakref.WeakSet[Saved] = weakref.WeakSet()
        self.passes: list[dict[str, Any]] = []
        self.most = 0
        self.forward = False
        self.routed: list[int] = []
        self.anyway = {
            tensor.untyped_storage().data_ptr()
            for chunk in policy.chunks
            for tensor in (*chunk.module.parameters(), *chunk.module.buffers())
        }
        for name, part in (pair for chunk in policy.chunks for pair in chunk.module.named_modules()):
            if name.endswith("rotary_pos_emb"):
                part.register_forward_hook(self._rotary)
            if name.endswith(".mlp.experts"):
                part.register_forward_pre_hook(self._expert_tokens)

    def _rotary(self, part: Any, arguments: Any, output: Any) -> None:
        table = output[0] if isinstance(output, tuple) else output
        self.anyway.add(table.untyped_storage().data_ptr())

    def _expert_tokens(self, part: Any, arguments: Any) -> None:
        if self.forward:
            self.routed.append(len(arguments[0]))

    def keep(self, tensor: Any) -> Saved:
        """What autograd holds in the tensor's stead."""
        saved = Saved(tensor)
        if self.forward:  # and not what is computed again
            self.live.add(saved)
        return saved

    def bytes(self) -> int:
        """Of all storages that forward passes kept and backward passes did not free."""
        storages = [saved.tensor.untyped_storage() for saved in self.live]
        return sum(
            {one.data_ptr(): one.nbytes() for one in storages if one.data_ptr() not in self.anyway}.values()
        )

    def forward_step(self, real: Any) -> Any:
        """The policy's forward step, which is a forward pass of a chunk; the loss is part of it."""

        def step(loss: Any, rows: Any, chunk: Any) -> Any:
            row = next(rows)
            tensors = (row.tokens_1T, row.labels_1T, row.positions_1T, row.answer_mask_1T, row.padding_1T)
            tensors += (row.packed.cu_seqlens_q, *row.values_T.values())
            self.anyway |= {one.untyped_storage().data_ptr() for one in tensors if one is not None}
            before = self.bytes()
            self.routed, self.forward = [], True
            output, of_row = real(loss, iter([row]), chunk)
            self.forward = False
            number = self.policy.chunks.index(chunk)
            starts = row.packed.cu_seqlens_q
            found = {
                "chunk": number,
                "row": (row.whole_tokens, len(starts) - 1, row.packed.max_seqlen_q),
                "routed": round(sum(self.routed) / len(self.routed)) if self.routed else None,
            }
            self.passes.append(found)
            last = chunk.module.post_process
            if not last:
                self.live.add(self._handed_on(output))
            self._note(found, before)

            def with_loss(given: Any) -> Any:
                self.forward = True
                value = of_row(given)
                self.forward = False
                self._note(found, before)
                return value

            return output, with_loss

        return step

    def _handed_on(self, output: Any) -> Saved:
        """What the schedule holds until the backward pass of this micro-batch."""
        saved = Saved(output.detach())
        output.register_hook(lambda gradient, held=[saved]: held.clear())
        return saved

    def _note(self, found: dict[str, Any], before: int) -> None:
        now = self.bytes()
        found["bytes"] = now - before
        self.most = max(self.most, now)

    @property
    def microbatches(self) -> int:
        """Of the backward pass."""
        return sum(one["chunk"] == 0 for one in self.passes)


def on_paper(case: Case, degrees: dict[str, int], rank: int, one: dict[str, Any]) -> int:
    """The bytes of the same forward pass, as the planner counts them."""
    from r1mega.config import Dtype
    from r1mega.planner.activations import Layers, RowSize, chunks, sizes

    fields, recompute, _ = case
    plan = plan_of(**degrees)
    tokens, samples, longest = one["row"]
    row = RowSize(tokens=tokens, samples=samples, longest=longest)
    z = sizes(fields, plan, row, Dtype.fp32, one["routed"])
    return chunks(fields, plan, z, Layers.torch, recompute)[plan.coordinates(rank)["pp"]][one["chunk"]].bytes


@pytest.fixture(scope="module", params=LAYOUTS)
def measured(request: pytest.FixtureRequest) -> list[tuple[dict[str, int], Case, list[dict[str, Any]]]]:
    """Each case of a number of ranks, with what was measured of it on each."""
    layouts = cases()[request.param]
    by_rank = run_ranks(request.param, run, free_ports(len(layouts)), layouts)
    return [
        (degrees, case, [of_rank[number][which] for of_rank in by_rank])
        for number, (degrees, of_layout) in enumerate(layouts)
        for which, case in enumerate(of_layout)
    ]


def test_there_are_enough_cases_and_every_family_is_among_them() -> None:
    every = [case for layouts in cases().values() for _, of_layout in layouts for case in of_layout]
    assert len(every) >= 50
    assert {fields["model_type"] for fields, _, _ in every} == {*KINDS}
    assert {name for _, recompute, _ in every for name in recompute} == {"full", *LATENT}


def test_a_forward_pass_keeps_what_the_planner_says(measured: Any) -> None:
    wrong = []
    errors = []
    for degrees, case, by_rank in measured:
        for rank, found in enumerate(by_rank):
            assert found["passes"]
            for one in found["passes"]:
                said = on_paper(case, degrees, rank, one)
                errors.append(abs(said / one["bytes"] - 1))
                if errors[-1] > LIMIT:
                    wrong.append((degrees, case, rank, one, said))
    print(f"{len(errors)} passes: median error {median(errors):.4%}, worst {max(errors):.4%}")
    assert wrong == []


def test_in_flight_are_as_many_as_megatrons_schedule_keeps(measured: Any) -> None:
    from r1mega.planner.activations import in_flight

    for degrees, case, by_rank in measured:
        plan = plan_of(**degrees)
        # Alone, a stage keeps its largest row; in a pipeline rows are alike but for how they are routed.
        typical = fmean if plan.pp > 1 else max
        for rank, found in enumerate(by_rank):
            said = [
                typical(
                    on_paper(case, degrees, rank, one) for one in found["passes"] if one["chunk"] == chunk
                )
                for chunk in range(plan.vpp)
            ]
            stage = plan.coordinates(rank)["pp"]
            counts = in_flight(plan, stage, found["microbatches"], said)
            most = sum(count * size for count, size in zip(counts, said, strict=True))
            assert most == pytest.approx(found["most"], rel=IN_FLIGHT_LIMIT), (degrees, case, rank, counts)
