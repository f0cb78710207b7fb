"""What the planner counts is what Megatron builds: weights, gradients, optimizer, copies and states.

Random models of every family in random layouts, each rank of each held against the real `Policy` there, to
the byte.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from support.models import random_dense_fields, random_fields
from support.ranks import free_ports, layout, plan_of, run_ranks

LAYOUTS: dict[int, list[dict[str, Any]]] = {
    1: [{}],
    2: [
        {"tp": 2},
        {"pp": 2},
        {"pp": 2, "vpp": 2},
        {"pp": 2, "layers_by_stage": (4, 0)},
        {"pp": 2, "vpp": 2, "layers_by_stage": (0, 1, 4, 0)},
        {"cp": 2},
        {"ep": 2},
        {"tp": 2, "ep": 2},
        {"tp": 2, "etp": 1},
        {"dp": 2},
        {"dp": 2, "etp": 2},
    ],
    3: [{"dp": 3}, {"pp": 3}],
    4: [
        {"tp": 2, "ep": 2, "dp": 2},
        {"tp": 2, "ep": 2, "etp": 2},
        {"pp": 2, "dp": 2},
        {"pp": 2, "vpp": 2, "ep": 2},
        {"cp": 2, "dp": 2},
        {"tp": 4},
    ],
}
KINDS = ("deepseek_v3", "qwen2", "qwen3", "qwen3_moe", "llama")
MODELS_A_LAYOUT = 3


def cases() -> dict[int, list[tuple[dict[str, Any], list[tuple[dict[str, Any], str]]]]]:
    """By number of ranks: each layout with its models; every family in turn, a scalar head now and then."""
    draw = random.Random(5)
    number = 0
    found: dict[int, Any] = {}
    for ranks, layouts in LAYOUTS.items():
        for degrees in layouts:
            models = []
            while len(models) < MODELS_A_LAYOUT:
                kind = KINDS[number % len(KINDS)]
                number += 1
                if kind in ("deepseek_v3", "qwen3_moe") or not degrees.keys() & {"ep", "etp"}:
                    models.append((model(draw, kind, degrees), draw.choice(["fp32", "bf16"])))
            found.setdefault(ranks, []).append((degrees, models))
    return found


def model(draw: random.Random, kind: str, degrees: dict[str, Any]) -> dict[str, Any]:
    """A random model of a family, which the layout can divide."""
    from r1mega.model.family import family_of, with_scalar_head
    from r1mega.parallel.plan import faults_for

    least = degrees.get("pp", 1) * degrees.get("vpp", 1)
    drawn = draw.randint(max(2, least), least + 3)
    fixed: dict[str, Any] = {
        "num_hidden_layers": sum(degrees.get("layers_by_stage", (drawn,))),
        "divisible_by": degrees.get("tp", 1),
    }
    fields = (
        random_fields(draw, **fixed) if kind == "deepseek_v3" else random_dense_fields(draw, kind, **fixed)
    )
    faults = faults_for(plan_of(**degrees), family_of(fields).shape(fields))
    if faults:
        return model(draw, kind, degrees)
    return with_scalar_head(fields) if draw.random() < 0.2 else fields


def build(ports: list[int], layouts: list[Any]) -> list[list[dict[str, int]]]:
    """On every rank: what each layout makes of each of its models."""
    found = []
    for port, (degrees, models) in zip(ports, layouts, strict=True):
        with layout(port, **degrees) as plan:
            found.append([measure(fields, dtype, plan) for fields, dtype in models])
    return found


def measure(fields: dict[str, Any], dtype: str, plan: Any) -> dict[str, int]:
    """What a real policy holds on this rank, in bytes but for `parameters`."""
    from r1mega.checkpoint import sharded
    from r1mega.config import Config, Dtype, OptimizerConfig, PrecisionConfig, Stage
    from r1mega.policy import Policy
    from r1mega.weights.megatron_write import local_bytes

    config = Config(stage=Stage.grpo, name="test", precision=PrecisionConfig(dtype=Dtype(dtype)))
    policy = Policy(config, fields, plan, fresh=False)
    policy.start_training(OptimizerConfig(lr=1e-3), updates=10)
    buffers = [b for chunk in policy.chunks for b in (*chunk.buffers, *chunk.expert_parallel_buffers)]
    optimizers = sharded._optimizers(policy)
    for optimizer in optimizers:
        optimizer._init_optimizer_states_with_dummy_values()
    moments = [
        state[name]
        for one in optimizers
        for state in one.optimizer.state.values()
        for name in ("exp_avg", "exp_avg_sq")
    ]
    masters = [t for one in optimizers for group in one.shard_fp32_from_float16_groups for t in group]
    routers = [
        buffer
        for chunk in policy.chunks
        for name, buffer in chunk.module.named_buffers()
        if name.endswith(("expert_bias", "local_tokens_per_expert"))
    ]
    reference = policy.snapshot()
    drafts = [piece.tensor for piece in policy.pieces if piece.place.served == "draft"]
    state = sharded.describe(policy, reference, loading=False)
    frozen = Policy(config, fields, plan, fresh=False, trainable=False)
    return {
        "parameters": sum(p.numel() for chunk in policy.chunks for p in chunk.module.parameters()),
        "weights": size([buffer.param_data for buffer in buffers]),
        "gradients": size([buffer.grad_data for buffer in buffers]),
        "optimizer": size([*moments, *masters]),
        "routers": size(routers),
        "snapshot": size(reference),
        "drafts": size(drafts),
        "written": local_bytes(state),
        "gathered": 12 * sum(buffer.numel_unpadded for buffer in buffers),
        "frozen": size([p for chunk in frozen.chunks for p in chunk.module.parameters()] + routers),
    }


def size(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def on_paper(fields: dict[str, Any], dtype: str, degrees: dict[str, Any]) -> list[dict[str, int]]:
    """The same of each rank, as the planner counts it."""
    from r1mega.config import Dtype
    from r1mega.planner.phases import staged_bytes, written_bytes
    from r1mega.planner.training import Trainer

    plan = plan_of(**degrees)
    trainer = Trainer(fields, plan, Dtype(dtype))
    return [
        {
            "parameters": trainer.stage_of(rank).parameters,
            "weights": trainer.weights(rank),
            "gradients": trainer.gradients(rank),
            "optimizer": trainer.optimizer(rank),
            "routers": trainer.router_state(rank),
            "snapshot": trainer.stage_of(rank).snapshot_bytes,
            "drafts": trainer.stage_of(rank).draft_bytes,
            "written": written_bytes(trainer, rank, has_reference=True),
            "gathered": staged_bytes(trainer, rank, True) - written_bytes(trainer, rank, True),
            "frozen": trainer.frozen(rank),
        }
        for rank in range(plan.world_size)
    ]


def test_there_are_enough_cases_and_every_family_is_among_them() -> None:
    models = [fields for layouts in cases().values() for _, models in layouts for fields, _ in models]
    assert len(models) >= 50
    assert {fields["model_type"] for fields in models} == {*KINDS}
    assert any(fields.get("num_nextn_predict_layers") for fields in models)
    assert any(fields.get("tie_word_embeddings") for fields in models)


@pytest.mark.parametrize("ranks", LAYOUTS)
def test_every_rank_holds_what_the_planner_says(ranks: int) -> None:
    layouts = cases()[ranks]
    by_rank = run_ranks(ranks, build, free_ports(len(layouts)), layouts)
    for number, (degrees, models) in enumerate(layouts):
        for which, (fields, dtype) in enumerate(models):
            real = [of_rank[number][which] for of_rank in by_rank]
            assert on_paper(fields, dtype, degrees) == real, (degrees, fields, dtype)


@pytest.mark.parametrize("ranks", LAYOUTS)
def test_the_ranks_files_make_the_state(ranks: int) -> None:
    """The whole state's size, from the model alone, is what all ranks write together."""
    from r1mega.config import Dtype
    from r1mega.planner.phases import state_bytes, written_bytes
    from r1mega.planner.training import Trainer
    from r1mega.planner.weights import model_biases, model_parameters

    for degrees, models in cases()[ranks]:
        for fields, dtype in models:
            plan = plan_of(**degrees)
            trainer = Trainer(fields, plan, Dtype(dtype))
            biases = model_biases(fields)
            whole = state_bytes(trainer, sum(model_parameters(fields)) - biases, biases, True)
            assert whole == sum(written_bytes(trainer, rank, True) for rank in range(plan.world_size))
