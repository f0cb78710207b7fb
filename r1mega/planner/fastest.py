"""The fastest layout that fits on as many GPUs, and why those that would be faster do not.

Layouts of training and of the engines are put in order, each by the time of a step with the other side as
given. Pairs are then taken in order of the two times together, and the first that fits is the answer: only
of pairs that are faster is the memory counted. A training layout under which ranks hold too much in
the mean is not counted at all, for its worst rank cannot hold less.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from heapq import heappop, heappush
from itertools import product
from math import inf, prod
from typing import Any

from r1mega.config import FULL_RECOMPUTE, GENERATING, BadRun, Config, Stage
from r1mega.model.family import family_of
from r1mega.parallel.plan import Plan
from r1mega.planner.fits import Shortage, shortages
from r1mega.planner.phases import OPTIMIZING
from r1mega.planner.run import Fields, Run
from r1mega.planner.training import BYTES, FP32, MOMENTS
from r1mega.planner.weights import whole_rows

Seconds = Callable[[Run], float]
"""Of a step of a run."""

SHOWN = 8
"""So many of the layouts that are faster and do not fit are told one by one."""
_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Candidate:
    """A layout of one side or of both, on paper."""

    overrides: tuple[str, ...]
    """As on the command line."""
    run: Run
    seconds: float


@dataclass(slots=True)
class Found:
    """What a search found."""

    gpus: int
    tried: int = 0
    """Layouts of training and of the engines that were looked at."""
    cannot_be: Counter[str] = field(default_factory=Counter)
    """By rule, its numbers left out: layouts that it forbids."""
    over: Counter[str] = field(default_factory=Counter)
    """By phase: layouts that are faster than the one found, and too large in it."""
    refused: list[tuple[Candidate, Shortage]] = field(default_factory=list)
    """The fastest of those."""
    best: Candidate | None = None
    given_seconds: float = 0.0
    """Of a step of the run as it was given."""


def fastest(run: Run, seconds: Seconds) -> Found:
    """The fastest layout of a run on the GPUs that it has.

    Args:
        seconds: of a step; the smaller, the better.
    """
    found = Found(run.topology.training.world_size, given_seconds=seconds(run))
    training = _timed(run, _training(run), seconds, found)
    engines: list[Candidate | None] = [None]
    if run.config.stage in GENERATING:
        engines = [*_timed(run, _engines(run), seconds, found)]
    room = inf
    if run.config.cluster.gpu_memory_gib is not None:
        room = run.config.cluster.gpu_memory_gib * _GIB
        engines = [one for one in engines if one is None or not _engine_over(one, room, found)]
        if run.memory().shared:
            room -= min((_engine_bytes(one) for one in engines if one), default=0)
        elements = elements_of(run.hf)
        training = [one for one in training if not _surely_over(one, elements, room, found)]
    over = _trainer_shortages(training, room)
    told: set[int] = set()
    for first, second in _in_order(training, engines):
        one, lacks = training[first], over(first)
        if lacks is None:
            one = _pair(one, engines[second], seconds)
            lacks = next(iter(shortages(one.run.config, one.run.memory())), None)
            if lacks is None:
                found.best = one
                break
        elif first in told:
            continue
        told.add(first)
        found.over[lacks.what.split(":")[0]] += 1
        if len(found.refused) < SHOWN:
            found.refused.append((one, lacks))
    return found


def _trainer_shortages(training: Sequence[Candidate], room: float) -> Callable[[int], Shortage | None]:
    """Where each of the trainer's layouts holds too much beside any engine; counted when it is asked for.

    What the leanest variant of a layout cannot hold, none of its variants can.
    """
    leanest = _leanest(training)

    @cache
    def of_layout(plan: Plan) -> Shortage | None:
        return _trainer_over(leanest[plan], room)

    @cache
    def of(place: int) -> Shortage | None:
        one = training[place]
        return of_layout(one.run.topology.training) or _trainer_over(one, room)

    return of


def _leanest(training: Sequence[Candidate]) -> dict[Plan, Candidate]:
    """Of each layout the variant that keeps least for the backward pass."""
    found: dict[Plan, Candidate] = {}
    for one in training:
        plan = one.run.topology.training
        if plan not in found or _kept(one) < _kept(found[plan]):
            found[plan] = one
    return found


def _kept(one: Candidate) -> tuple[bool, int]:
    train = one.run.config.train
    return FULL_RECOMPUTE not in train.recompute, train.tokens_per_microbatch


def _trainer_over(one: Candidate, room: float) -> Shortage | None:
    """Where the trainer holds too much beside the smallest engine; None where it does not.

    Args:
        room: that such an engine leaves on a GPU, in bytes.
    """
    phase, held = max(one.run.memory().trainer_bytes().items(), key=lambda phase: phase[1])
    lacking = int(held - room)
    return Shortage(f"{phase}: beside the smallest engine", lacking, {}) if lacking > 0 else None


def _training(run: Run) -> Iterator[dict[str, Any]]:
    """Every training layout on as many GPUs: values of keys of `parallel` and `train`."""
    config, gpus = run.config, run.topology.training.world_size
    shape = family_of(run.hf).shape(run.hf)
    machine = config.cluster.gpus_per_machine or gpus
    # Without a context that is split, a row must hold the longest sample.
    rows = {config.rollout.max_context_tokens, config.train.tokens_per_microbatch}
    for tp, pp, cp in product(_divisors(machine), _divisors(gpus), _divisors(machine)):
        if gpus % (tp * pp * cp) or pp > shape.layers:
            continue
        degrees = {"tp": tp, "pp": pp, "cp": cp, "dp": gpus // (tp * pp * cp)}
        for vpp, ep, recompute, row in product(
            (1, 2, 4) if pp > 1 else (1,),
            _divisors(shape.experts) if shape.experts else (1,),
            ([], [FULL_RECOMPUTE]),
            sorted(rows),
        ):
            if ep > gpus:
                continue
            for etp in sorted({1, tp}) if ep > 1 else (None,):
                yield {
                    "parallel": degrees | {"vpp": vpp, "ep": ep, "etp": etp, "layers_by_stage": None},
                    "train": {"recompute": recompute, "tokens_per_microbatch": row},
                }


def _engines(run: Run) -> Iterator[dict[str, Any]]:
    """Every layout of the engines on their GPUs."""
    rollout, machine = run.topology.rollout, run.config.cluster.gpus_per_machine or 8
    gpus = run.topology.training.world_size if run.memory().shared else rollout.workers
    experts = family_of(run.hf).shape(run.hf).experts
    for tp, pp in product(_divisors(machine), (1, 2, 4, 8)):
        if gpus % (tp * pp):
            continue
        for ep in sorted({1, tp}) if experts else (1,):
            yield {
                "rollout": {
                    "tensor_parallel": tp,
                    "pipeline_parallel": pp,
                    "expert_parallel": ep,
                    "replicas": gpus // (tp * pp),
                }
            }


def _divisors(number: int) -> list[int]:
    return [value for value in range(1, number + 1) if number % value == 0]


def _timed(run: Run, options: Iterator[dict[str, Any]], seconds: Seconds, found: Found) -> list[Candidate]:
    """Those of the options that can be, fastest first."""
    timed = []
    for option in options:
        found.tried += 1
        config = run.config
        for section, values in option.items():
            config = replace(config, **{section: replace(getattr(config, section), **values)})
        try:
            changed = run.changed(config)
        except BadRun as error:
            found.cannot_be[re.sub(r"\d[\d,]*", "N", error.faults[0])] += 1
            continue
        timed.append(Candidate(_overrides(run, option), changed, seconds(changed)))
    return sorted(timed, key=lambda one: one.seconds)


def _overrides(run: Run, option: dict[str, Any]) -> tuple[str, ...]:
    """As on the command line, of those keys alone in which the run is another."""
    return tuple(
        f"{section}.{key}={_spoken(value)}"
        for section, values in option.items()
        for key, value in values.items()
        if value != getattr(getattr(run.config, section), key)
    )


def _spoken(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ",".join(value) + "]"
    return "null" if value is None else str(value)


def _in_order(
    training: Sequence[Candidate], engines: Sequence[Candidate | None]
) -> Iterator[tuple[int, int]]:
    """The places of both sides' layouts, those whose times are the least together first."""

    def together(first: int, second: int) -> float:
        engine = engines[second]
        return training[first].seconds + (engine.seconds if engine else 0.0)

    if not training or not engines:
        return
    waiting, seen = [(together(0, 0), 0, 0)], {(0, 0)}
    while waiting:
        _, first, second = heappop(waiting)
        yield first, second
        for one in ((first + 1, second), (first, second + 1)):
            if one[0] < len(training) and one[1] < len(engines) and one not in seen:
                seen.add(one)
                heappush(waiting, (together(*one), *one))


def _pair(training: Candidate, engine: Candidate | None, seconds: Seconds) -> Candidate:
    if engine is None:
        return training
    run = training.run
    both = run.changed(replace(run.config, rollout=engine.run.config.rollout))
    return Candidate(training.overrides + engine.overrides, both, seconds(both))


def _surely_over(one: Candidate, elements: Elements, limit: float, found: Found) -> bool:
    if least_bytes(elements, one.run.topology.training, one.run.config) <= limit:
        return False
    found.over["save, in the mean over ranks"] += 1
    return True


def _engine_over(one: Candidate, limit: float, found: Found) -> bool:
    if _engine_bytes(one) <= limit:
        return False
    found.over["an engine by itself"] += 1
    return True


def _engine_bytes(one: Candidate) -> int:
    """Of the worker that holds most."""
    return max(one.run.memory().workers) + one.run.config.rollout.kv_cache_bytes


Elements = Counter[tuple[bool, bool]]
"""Elements of the whole model's weights, by whether they are experts' and whether ranks split them."""


def elements_of(hf: Fields) -> Elements:
    """The model's weights, each once."""
    found: Elements = Counter()
    for row, copies in whole_rows(hf):
        found[row.experts > 0, row.split is not None] += sum(prod(shape) for shape in row.shapes) * copies
    return found


def least_bytes(elements: Elements, plan: Plan, config: Config) -> float:
    """What the rank that holds most cannot hold less than while a state is saved: the mean over all ranks.

    Weights, gradients, optimizer, the reference, and the largest bucket gathered; without any padding.
    """
    dense = (elements[False, True] / plan.tp + elements[False, False]) / plan.pp
    experts = (elements[True, True] / plan.etp + elements[True, False]) / plan.ep / plan.pp
    width = BYTES[config.precision.dtype]
    optimizes = config.stage in OPTIMIZING
    has_reference = config.stage is Stage.grpo and config.grpo.kl_coefficient > 0
    owned = (MOMENTS + (width < FP32)) * FP32 if optimizes else 0
    each = width * (1 + has_reference) + FP32
    gathered = 2 * FP32 * max(dense, experts) / plan.vpp if optimizes else 0
    return gathered + dense * (each + owned / (plan.cp * plan.dp)) + experts * (each + owned / plan.expert_dp)
