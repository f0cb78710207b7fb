"""How long the trainer takes over samples: to score them, and to learn from them.

Of each row (a micro-batch), per layer: multiplications at a share of the peak; reading and writing
activations and weights at a share of the memory bandwidth; gathering and scattering of tensor and sequence
parallelism; the experts' all-to-all, for which all wait until the fullest rank is done. None of them hides
another. A pipeline's stages are busy for as many rows as there are, and idle for the rest of 1F1B,
interleaved or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from r1mega.grpo.packing import pack
from r1mega.parallel.plan import Plan
from r1mega.planner.lengths import Lengths, groups
from r1mega.planner.links import Constants, Machine, gather_s
from r1mega.planner.token_costs import TokenCosts

LAYER_BYTES = 34
"""Per token and unit of the model's width, what a layer writes of activations in bf16 on its way forward: all
that its backward pass needs (arXiv 2205.05198, equation 1, without the attention's scores)."""
ROUTED_BYTES = 16
"""The same of each copy of a token for an expert: permuted, sent, sorted and put back, each both ways."""
FEED_FORWARD_BYTES = 6
"""Per token and unit of the feed-forward's width: its two halves and their product."""
OPTIMIZER_BYTES = 30
"""Per weight: fp32 master and two moments read and written, the gradient read, the bf16 weight written."""
EXCHANGED_BYTES = 6
"""Per weight: its gradient in fp32 to the rank that owns it, and the new weight in bf16 back."""


@dataclass(frozen=True, slots=True)
class Samples:
    """What a pass is over."""

    number: int
    prompt_tokens: float
    answers: Lengths

    @property
    def mean(self) -> float:
        """Tokens of a sample, question included."""
        return self.prompt_tokens + self.answers.mean

    @property
    def mean_square(self) -> float:
        """The mean of the squared lengths, which attention goes by."""
        prompt, answer = self.prompt_tokens, self.answers
        return prompt * prompt + 2 * prompt * answer.mean + answer.mean_square


@dataclass(frozen=True, slots=True)
class Trainer:
    """A model in its training layout, on a machine."""

    costs: TokenCosts
    plan: Plan
    machine: Machine
    row_tokens: int
    """What a row holds at the most."""
    fp8: bool = False
    """Whether the layers' linear parts are multiplied in FP8."""
    recomputes: bool = False
    """Whether whole layers are computed a second time on the way back."""
    drafts: bool = False
    """Whether the draft layers learn."""
    once_a_machine: bool = False
    """Whether a token is sent once to each machine that has its experts (DeepEP), or once to each expert."""
    even: bool = False
    """Whether all experts get as many tokens: benchmarks force it."""
    hides_tp: bool = False
    """Whether tensor parallelism's exchanges run while matrices are multiplied."""


@dataclass(frozen=True, slots=True)
class _Pass:
    """What a pass repeats: in forward passes' worth, of computing and of exchanging with other experts."""

    computed: float
    routed: int
    gathered: int
    backward: bool

    @classmethod
    def of(cls, trainer: Trainer, learns: bool) -> _Pass:
        again = int(trainer.recomputes)
        # Backward, a layer's two blocks each gather once more what their weights' gradients need.
        return cls(3 + again, 2 + again, 4 * (2 + again) + 2, True) if learns else cls(1, 1, 4, False)


def rows(trainer: Trainer, samples: Samples) -> tuple[int, float]:
    """Rows of a data-parallel rank, and the tokens of the mean row."""
    plan = trainer.plan
    tokens = samples.number / plan.dp * samples.mean
    number = max(1, -(-tokens // _tokens_a_row(samples.answers, samples.prompt_tokens, trainer.row_tokens)))
    number += -number % plan.rows_multiple
    return int(number), tokens / number


@lru_cache(maxsize=1024)
def _tokens_a_row(answers: Lengths, prompt_tokens: float, row_tokens: int) -> float:
    """Of the mean row when many samples are packed."""
    lengths: list[int] = []
    for length, share in groups(answers, 4096):
        lengths += [min(max(1, round(prompt_tokens + length)), row_tokens)] * round(share * 256)
    [packed] = pack(lengths, row_tokens, 1)
    return sum(lengths) / len(packed)


def update_causes(trainer: Trainer, samples: Samples, constants: Constants) -> dict[str, float]:
    """Seconds of one optimizer step on these samples, by cause."""
    owned = trainer.costs.parameters / trainer.plan.world_size
    found = _pipeline(trainer, samples, constants, learns=True) | {
        "gradients and weights": _exchange_s(trainer) / constants.bandwidth,
        "optimizer": owned * OPTIMIZER_BYTES / (trainer.machine.chip.memory_bandwidth * constants.bandwidth),
    }
    return {cause: seconds for cause, seconds in found.items() if seconds}


def score_causes(trainer: Trainer, samples: Samples, constants: Constants) -> dict[str, float]:
    """Seconds of a forward pass over these samples, by cause."""
    found = _pipeline(trainer, samples, constants, learns=False)
    return {cause: seconds for cause, seconds in found.items() if seconds}


def _pipeline(trainer: Trainer, samples: Samples, constants: Constants, *, learns: bool) -> dict[str, float]:
    number, tokens = rows(trainer, samples)
    row = _row(trainer, samples, tokens, constants, _Pass.of(trainer, learns))
    found = {cause: seconds * number for cause, seconds in row.items()}
    return found | {"bubble": sum(row.values()) * (trainer.plan.pp - 1) / trainer.plan.vpp}


def _row(
    trainer: Trainer, samples: Samples, tokens: float, constants: Constants, times: _Pass
) -> dict[str, float]:
    """Seconds of a row on a stage that has most layers, by cause."""
    costs, plan, chip = trainer.costs, trainer.plan, trainer.machine.chip
    layers = -(-costs.layers // (plan.pp * plan.vpp)) * plan.vpp
    share = layers / costs.layers
    waiting = 1.0 if trainer.even or plan.ep == 1 else 1 / constants.balance
    each = tokens / (plan.tp * plan.cp)
    routed = costs.expert * costs.experts_per_token * costs.expert_layers
    learnt = costs.draft if trainer.drafts and times.backward else 0
    linear = ((costs.dense + routed * waiting) * share + learnt / plan.pp) * 2 * each
    head = costs.head / plan.pp * 2 * each
    scored = costs.scored * layers * each * samples.mean_square / samples.mean / 2
    # Fused attention computes its scores anew on the way back: half a forward pass more.
    scored *= times.computed + (0.5 if times.backward else 0)
    peak = chip.fp8_flops if trainer.fp8 else chip.bf16_flops
    multiplied = (linear / peak + head / chip.bf16_flops) * times.computed / constants.compute
    gathered = gather_s(2 * tokens / plan.cp * costs.hidden, plan.tp, trainer.machine, constants)
    gathered *= times.gathered * layers
    streamed = _streamed_bytes(trainer, each, waiting) * layers * times.computed
    return {
        "multiplications": multiplied,
        "attention": scored / (chip.bf16_flops * constants.compute),
        "activations and weights": streamed / (chip.memory_bandwidth * constants.bandwidth),
        "tensor parallelism": max(0.0, gathered - (multiplied if trainer.hides_tp else 0.0)),
        "all-to-all": _all_to_all_s(trainer, each) * share * times.routed * waiting / constants.bandwidth,
        "pipeline's messages": _message_s(trainer, each) * (1 + times.backward) / constants.bandwidth,
    }


def _streamed_bytes(trainer: Trainer, tokens: float, waiting: float) -> float:
    """Of the mean layer, for a rank's tokens."""
    costs, plan = trainer.costs, trainer.plan
    moe = costs.expert_layers / costs.layers
    copies = ROUTED_BYTES * costs.hidden * costs.experts_per_token * moe
    activations = LAYER_BYTES * costs.hidden + (copies + FEED_FORWARD_BYTES * costs.feed_forward) * waiting
    dense = costs.dense / costs.layers / plan.tp
    experts = costs.expert * costs.experts * moe / (plan.ep * plan.etp)
    return activations * tokens + 2 * (dense + experts)


def _all_to_all_s(trainer: Trainer, tokens: float) -> float:
    """There and back, of all layers, at full bandwidth."""
    costs, machine, chip = trainer.costs, trainer.machine, trainer.machine.chip
    ranks = trainer.plan.ep * trainer.plan.etp
    if trainer.plan.ep == 1:
        return 0.0
    near, machines = min(ranks, machine.gpus), max(1.0, ranks / machine.gpus)
    copies = float(costs.experts_per_token)
    sent = copies
    if trainer.once_a_machine:
        sent = min(machines * (1 - (1 - 1 / machines) ** copies), costs.most_machines)
    away = sent * (1 - 1 / machines) / chip.network_bandwidth
    inside = copies * (near - 1) / near / chip.nvlink_bandwidth
    return 2 * 2 * costs.hidden * tokens * (away + inside) * costs.expert_layers


def _message_s(trainer: Trainer, tokens: float) -> float:
    """A row's way through the pipeline, one way, as one stage sees it; stages are on different machines."""
    if trainer.plan.pp == 1:
        return 0.0
    size = 2 * tokens * trainer.costs.hidden * trainer.plan.vpp
    return size / trainer.machine.chip.network_bandwidth


def _exchange_s(trainer: Trainer) -> float:
    """Between the ranks that hold the same weights, at full bandwidth."""
    costs, plan, chip = trainer.costs, trainer.plan, trainer.machine.chip
    experts = costs.expert * costs.experts * costs.expert_layers
    held = (
        ((costs.parameters - experts) / (plan.tp * plan.pp), plan.dp * plan.cp, plan.tp),
        (experts / (plan.etp * plan.ep * plan.pp), plan.expert_dp, plan.etp * plan.ep),
    )
    found = 0.0
    for weights, copies, apart in held:
        inside = copies * apart <= trainer.machine.gpus
        rate = chip.nvlink_bandwidth if inside else chip.network_bandwidth
        found += weights * EXCHANGED_BYTES * (copies - 1) / copies / rate
    return found
