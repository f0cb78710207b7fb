"""Whether what is counted of a run fits its GPUs, and which small change would make it fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from r1mega.config import FULL_RECOMPUTE, GENERATING, BadRun, Config
from r1mega.parallel.plan import RolloutPlan
from r1mega.planner.engines import bytes_of_a_token
from r1mega.planner.phases import Memory
from r1mega.planner.run import Fields, Run

MOST_CHANGES = 8
"""So many doublings or halvings are tried on top of each other."""
HELPS = 0.9
"""A change that leaves more than this share of what lacks is none to go on from."""
_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Shortage:
    """What a run lacks."""

    what: str
    bytes: int
    causes: dict[str, int]
    of_cache: bool = False
    """Of the cache's own size, and not of a GPU's memory."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A change that was tried."""

    overrides: tuple[str, ...]
    """As on the command line."""
    ranks: int
    """Of the trainer's layout; 0 where the change cannot be."""
    lacking: int
    """Bytes that lack in the worst phase, and of the cache; 0: it fits."""
    why: str
    """Where they lack, or why it cannot be."""

    @property
    def fits(self) -> bool:
        """Nothing lacks."""
        return self.ranks > 0 and self.lacking == 0


def shortages(config: Config, memory: Memory) -> list[Shortage]:
    """Every phase that does not fit, worst first, and a cache that holds no sequence; none where all fits."""
    found = []
    limit = config.cluster.gpu_memory_gib
    if memory.on_gpus and limit is not None:
        for phase in memory.phases:
            over = phase.bytes - int(limit * _GIB)
            if over > 0:
                found.append(Shortage(f"{phase.name}: {phase.who}", over, phase.causes))
    found.sort(key=lambda one: -one.bytes)
    return found + _cache_shortage(config, memory)


def _cache_shortage(config: Config, memory: Memory) -> list[Shortage]:
    """vLLM refuses to start with a cache that cannot hold one sequence of the longest allowed."""
    needed = _sequence_bytes(config, memory.hf, memory.rollout)
    short = needed - config.rollout.kv_cache_bytes
    if config.stage not in GENERATING or short <= 0:
        return []
    what = (
        f"rollout.kv_cache_bytes: one sequence of {config.rollout.max_context_tokens:,} tokens does not fit"
    )
    return [Shortage(what, short, {"one sequence": needed}, of_cache=True)]


def _sequence_bytes(config: Config, hf: Fields, rollout: RolloutPlan) -> int:
    """What the longest sequence allowed takes of a worker's cache."""
    return bytes_of_a_token(hf, rollout, config) * config.rollout.max_context_tokens


def search(run: Run) -> tuple[Trial | None, list[Trial]]:
    """The smallest change under which a run that does not fit would, and all that was tried first.

    One doubling (of tp, pp, ep, dp or an engine's workers) or halving (of the cache or of a row), or full
    recomputation, after another is added, each time the one after which the least lacks; the first that fits
    ends it.

    Returns:
        The change, None where none was found, and the trials of the first round.
    """
    base = run
    overrides: tuple[str, ...] = ()
    first: list[Trial] = []
    lacking = sum_lacking(run)
    for number in range(MOST_CHANGES):
        tried = [(_try(base, overrides, step, config), config) for step, config in _steps(base)]
        if number == 0:
            first = [trial for trial, _ in tried]
        fitting = [trial for trial, _ in tried if trial.fits]
        if fitting:
            return min(fitting, key=lambda trial: trial.ranks), first
        better = [
            (trial, config) for trial, config in tried if trial.ranks and trial.lacking < HELPS * lacking
        ]
        if not better:
            break
        best, config = min(better, key=lambda one: (one[0].lacking, one[0].ranks))
        base, overrides, lacking = base.changed(config), best.overrides, best.lacking
    return None, first


def sum_lacking(run: Run) -> int:
    """What lacks in the worst phase, and of the cache."""
    return _lacking(shortages(run.config, run.memory()))


def _lacking(found: list[Shortage]) -> int:
    cache = sum(one.bytes for one in found if one.of_cache)
    return cache + max((one.bytes for one in found if not one.of_cache), default=0)


def _try(run: Run, before: tuple[str, ...], step: tuple[str, ...], config: Config) -> Trial:
    keys = {override.split("=")[0] for override in step}
    overrides = (*(one for one in before if one.split("=")[0] not in keys), *step)
    try:
        changed = run.changed(config)
    except BadRun as error:
        return Trial(overrides, 0, 0, error.faults[0])
    found = shortages(config, changed.memory())
    return Trial(
        overrides,
        changed.topology.training.world_size,
        _lacking(found),
        found[0].what if found else "nothing that is counted",
    )


def _steps(run: Run) -> Iterator[tuple[tuple[str, ...], Config]]:
    """Each change that may be made to a run: what it is on the command line, and the run with it."""
    config, plan = run.config, run.topology.training
    of = config.parallel
    for name in ("tp", "ep"):
        value = 2 * getattr(plan, name)
        yield (f"parallel.{name}={value}",), replace(config, parallel=replace(of, **{name: value}))
    spread = () if of.layers_by_stage is None else ("parallel.layers_by_stage=null",)
    deeper = replace(config, parallel=replace(of, pp=2 * plan.pp, layers_by_stage=None))
    yield (f"parallel.pp={2 * plan.pp}", *spread), deeper
    machines = config.cluster.machines
    if machines is not None and of.dp is None:
        larger = replace(config, cluster=replace(config.cluster, machines=2 * machines))
        yield (f"cluster.machines={2 * machines}",), larger
    else:
        yield (f"parallel.dp={2 * plan.dp}",), replace(config, parallel=replace(of, dp=2 * plan.dp))
    if run.memory().optimizes:
        yield from _activation_steps(config)
    if config.stage not in GENERATING:
        return
    workers = 2 * config.rollout.tensor_parallel
    yield (
        (f"rollout.tensor_parallel={workers}",),
        replace(config, rollout=replace(config.rollout, tensor_parallel=workers)),
    )
    cache = _other_cache(run)
    yield (
        (f"rollout.kv_cache_bytes={cache}",),
        replace(config, rollout=replace(config.rollout, kv_cache_bytes=cache)),
    )


def _activation_steps(config: Config) -> Iterator[tuple[tuple[str, ...], Config]]:
    """Less to keep for the backward pass: nothing but layers' inputs, or half of a row."""
    train, full = config.train, [FULL_RECOMPUTE]
    if train.recompute != full:
        yield (
            (f"train.recompute=[{FULL_RECOMPUTE}]",),
            replace(config, train=replace(train, recompute=full)),
        )
    half = train.tokens_per_microbatch // 2
    if half >= config.rollout.max_context_tokens:
        yield (
            (f"train.tokens_per_microbatch={half}",),
            replace(config, train=replace(train, tokens_per_microbatch=half)),
        )


def _other_cache(run: Run) -> int:
    """Half the cache; where it holds no sequence, what one takes."""
    needed = _sequence_bytes(run.config, run.hf, run.topology.rollout)
    held = run.config.rollout.kv_cache_bytes
    return needed if held < needed else held // 2
