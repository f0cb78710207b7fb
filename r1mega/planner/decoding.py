"""How long engines take to answer: continuous batching, until the last answer ends.

A decoding step reads the weights that its tokens touch and the cache of all sequences; it multiplies, meets
the engine's other workers twice a layer, and costs the engine some time of its own. Answers start together,
as many as an engine takes, and a finished one makes room for the next. Towards the end fewer and fewer are
left, and a step costs nearly as much as before: that is the tail.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from r1mega.parallel.plan import RolloutPlan
from r1mega.planner.lengths import Lengths, groups
from r1mega.planner.links import Constants, Machine, all_reduce_s
from r1mega.planner.token_costs import TokenCosts

EAGER_LAYER_S = 1e-3
"""What launching a layer's kernels one by one takes where no CUDA graph does it: some hundred, 10 us each."""

_FOLLOWED = 4
"""So many times what an engine takes at once is followed answer by answer; beyond is a steady state."""
_CRUMB = 1e-6
"""Of a sequence: what is too little to be let in, left by sums of shares."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of all engines together."""

    samples: int
    samples_per_prompt: int
    prompt_tokens: float
    answers: Lengths
    sequences: int
    """That an engine decodes at once, at the most."""
    cache_bytes: float
    """Of a worker's cache."""


@dataclass(frozen=True, slots=True)
class Engines:
    """A model in its rollout layout, on a machine."""

    costs: TokenCosts
    plan: RolloutPlan
    machine: Machine
    fp8: bool = False
    """Weights of one byte, multiplied in FP8; the cache is in bf16 either way."""
    graphs: bool = True
    """Whether steps are replayed as CUDA graphs."""
    tokens_a_step: float = 1.0
    """Per sequence; more than one where a draft model's tokens are accepted."""

    @property
    def weight_bytes(self) -> int:
        """Of one weight."""
        return 1 if self.fp8 else 2

    @property
    def peak(self) -> float:
        """Operations a second that weights are multiplied at, at the most."""
        return self.machine.chip.fp8_flops if self.fp8 else self.machine.chip.bf16_flops

    @property
    def token_bytes(self) -> float:
        """What a worker's cache keeps of one token."""
        return self.costs.cache_bytes / min(self.plan.tp, self.costs.cache_parts) / self.plan.pp


@lru_cache(maxsize=4096)
def rollout_causes(engines: Engines, asked: Asked, constants: Constants) -> Mapping[str, float]:
    """Seconds until the slowest engine, which has the longest answer of all, is done; by cause.

    Kept, for a search tries the same engines with many layouts of the trainer.
    """
    each = asked.samples / engines.plan.replicas
    found = {"prompts": _prompts_s(engines, asked, each / asked.samples_per_prompt, constants)}
    capacity = asked.cache_bytes / engines.token_bytes
    for steps, sequences, cached in stretches(each, asked, capacity):
        for cause, seconds in step_causes(engines, max(1.0, sequences), cached, constants).items():
            found[cause] = found.get(cause, 0.0) + seconds * steps / engines.tokens_a_step
    return found


def step_causes(engines: Engines, sequences: float, cached: float, constants: Constants) -> dict[str, float]:
    """Seconds of one decoding step of an engine.

    Args:
        sequences: that each get their next token.
        cached: tokens of all of them, kept by the cache.
    """
    costs, plan, chip = engines.costs, engines.plan, engines.machine.chip
    stream, compute = chip.memory_bandwidth * constants.bandwidth, constants.compute
    tokens = sequences * engines.tokens_a_step
    at_once = max(1.0, tokens / plan.pp)  # a group of sequences for each pipeline stage, which take turns
    weights = costs.dense + costs.head + costs.touched(at_once) * costs.expert * costs.expert_layers
    read = weights * engines.weight_bytes / plan.tp / stream
    multiplied = 2 * (costs.active + costs.head) * tokens / plan.tp / (engines.peak * compute)
    scored = costs.scored_decoding * costs.layers * cached * engines.tokens_a_step / plan.tp
    meeting = all_reduce_s(2 * at_once * costs.hidden, plan.tp, engines.machine, constants)
    return {
        "weights": max(read, multiplied),
        "cache": max(engines.token_bytes * plan.pp * cached / stream, scored / (chip.bf16_flops * compute)),
        "other workers": 2 * costs.layers * meeting,
        "engine": constants.step_s * plan.pp + (0.0 if engines.graphs else costs.layers * EAGER_LAYER_S),
    }


@lru_cache(maxsize=4096)
def stretches(answers: float, asked: Asked, capacity: float) -> tuple[tuple[float, float, float], ...]:
    """An engine's course, in stretches between events: steps, sequences, and cached tokens midway.

    Groups of answers of about the same length stand for all. Where the cache would not hold as many sequences
    as an engine takes, of the mean length that sequences have at any time, it takes as many as it holds.

    Args:
        answers: of this engine.
        capacity: tokens that its cache holds.
    """
    kept = asked.prompt_tokens + asked.answers.mean_square / (2 * asked.answers.mean)
    slots = min(float(asked.sequences), answers, max(1.0, capacity / kept))
    followed = min(answers, _FOLLOWED * slots)
    found = _follow(slots, followed, asked)
    if answers > followed:
        found.append(((answers - followed) * asked.answers.mean / slots, slots, slots * kept))
    return tuple(found)


def _follow(slots: float, answers: float, asked: Asked) -> list[tuple[float, float, float]]:
    shares = _mixed(groups(asked.answers, max(1, asked.samples)))
    waiting = [(length, share * answers) for length, share in reversed(shares)]
    live: list[tuple[float, float, float]] = []  # the step at which a group ends, its length, how many it is
    found = []
    now = sequences = cached = 0.0
    while live or waiting:
        while waiting and sequences < slots - _CRUMB:
            length, count = waiting.pop()
            taken = min(count, slots - sequences)
            if taken < count:
                waiting.append((length, count - taken))
            heapq.heappush(live, (now + length, length, taken))
            sequences += taken
            cached += taken * asked.prompt_tokens
        end, length, count = heapq.heappop(live)
        steps = end - now
        found.append((steps, sequences, cached + sequences * steps / 2))
        now = end
        cached = max(0.0, cached + sequences * steps - count * (asked.prompt_tokens + length))
        sequences = max(0.0, sequences - count)
    return found


def _mixed(found: tuple[tuple[float, float], ...]) -> list[tuple[float, float]]:
    """Groups in an order in which short and long ones take turns, always the same."""
    golden = 0.6180339887498949
    return [found[i] for i in sorted(range(len(found)), key=lambda i: i * golden % 1)]


def _prompts_s(engines: Engines, asked: Asked, prompts: float, constants: Constants) -> float:
    """An engine's questions, each read once for all its answers."""
    costs, plan, tokens = engines.costs, engines.plan, prompts * asked.prompt_tokens
    operations = 2 * costs.active + costs.layers * costs.scored * asked.prompt_tokens / 2
    multiplied = tokens * operations / plan.workers_per_replica / (engines.peak * constants.compute)
    return multiplied + 2 * costs.layers / plan.pp * all_reduce_s(
        2 * tokens * costs.hidden, plan.tp, engines.machine, constants
    )
