"""How long a run takes: each phase of a step by cause, the whole run, its GPU-hours and their cost.

All of it follows from the model's numbers, the layouts and the GPU's data sheet, but for four constants that
were fitted to published times of other systems (`FITTED`; docs/planning_times.md). Nothing of r1mega itself
was measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from r1mega.config import FULL_RECOMPUTE, GENERATING, BadRun, Config, Fp8, Placement, Stage
from r1mega.parallel.plan import Topology
from r1mega.planner.batch import samples_per_rollout, samples_per_update
from r1mega.planner.chips import CHIPS
from r1mega.planner.decoding import Asked, Engines, rollout_causes
from r1mega.planner.learning import Samples, Trainer, score_causes, update_causes
from r1mega.planner.lengths import Lengths
from r1mega.planner.links import Constants, Machine
from r1mega.planner.token_costs import TokenCosts, token_costs

FITTED = Constants(compute=0.45, bandwidth=0.825, balance=0.223, step_s=0.00697)
"""What makes the sum of absolute log errors over `published_times.py` least; by `tools/calibrate.py`."""

TENSOR_S = 33.5 / 90_000
"""What handing over a tensor takes besides its bytes: NeMo-RL v0.3's 33.5 s for DeepSeek-V3's 90,000 (its
blog of 2025-08-12, table 1). r1mega's own is not measured."""
HOST_COPY_BANDWIDTH = 10e9
"""Bytes a second between a GPU and pageable memory, where a system sets things aside; an assumption."""
SAVE_BANDWIDTH = 2e9
"""Bytes a second that one machine writes to a shared file system; an assumption."""
SAVED_BYTES = 14
"""Per weight: bf16, its fp32 master and two moments."""


@dataclass(frozen=True, slots=True)
class Phase:
    """What a step does at a time."""

    name: str
    causes: dict[str, float]
    """Seconds by cause."""

    @property
    def seconds(self) -> float:
        """All of it."""
        return sum(self.causes.values())


@dataclass(frozen=True, slots=True)
class Work:
    """A step: a rollout with all that follows from it; or where nothing is asked, updates alone."""

    trainer: Trainer
    samples: Samples
    """Of the step."""
    updates: int
    """That the samples are cut into; 0 where nothing is learnt."""
    engines: Engines | None = None
    asked: Asked | None = None
    scored: int = 0
    """Forward passes over all samples: under the policy, under the reference."""
    sets_aside: bool = False
    """Whether the optimizer and the engines' weights make room for each other, in the machine's memory."""
    rollouts_ahead: int = 0
    """How many rollouts are sampled while the trainer learns from an earlier one, on GPUs of their own."""

    @property
    def gpus(self) -> int:
        """That compute."""
        training = self.trainer.plan.world_size
        return training + self.engines.plan.workers if self.rollouts_ahead and self.engines else training


def step_time(work: Work, constants: Constants = FITTED) -> list[Phase]:
    """The phases of a step, in their order."""
    found = []
    if work.engines and work.asked:
        found.append(Phase("rollout", _rollout(work, work.engines, work.asked, constants)))
    if work.scored:
        causes = score_causes(work.trainer, work.samples, constants)
        found.append(Phase("log-probs", _times(causes, work.scored)))
    if work.updates:
        each = replace(work.samples, number=work.samples.number // work.updates)
        causes = update_causes(work.trainer, each, constants)
        found.append(Phase("updates", _times(causes, work.updates)))
    if work.engines and work.updates:
        found.append(Phase("hand-over", _handover(work.trainer, work.engines, constants)))
        if work.sets_aside:
            found.append(Phase("set aside and back", _aside(work.trainer, work.engines)))
    return found


def step_seconds(work: Work, phases: list[Phase]) -> float:
    """Of the whole step: the sum of its phases, where none runs beside another."""
    by_name = {phase.name: phase.seconds for phase in phases}
    if not work.rollouts_ahead:
        return sum(by_name.values())
    beside, last = by_name.pop("rollout"), by_name.pop("hand-over")
    return max(beside, sum(by_name.values())) + last


def tokens_per_s_per_gpu(work: Work, seconds: float) -> float:
    """Of all samples' tokens, questions included."""
    return work.samples.number * work.samples.mean / seconds / work.gpus


def _times(causes: Mapping[str, float], number: float) -> dict[str, float]:
    return {cause: seconds * number for cause, seconds in causes.items()}


def _rollout(work: Work, engines: Engines, asked: Asked, constants: Constants) -> dict[str, float]:
    # Several rollouts ahead, engines have the next one's answers to go on with: only the last has a tail.
    together = max(1, work.rollouts_ahead)
    causes = rollout_causes(engines, replace(asked, samples=asked.samples * together), constants)
    return _times(causes, 1 / together)


def _handover(trainer: Trainer, engines: Engines, constants: Constants) -> dict[str, float]:
    """Every machine gets every weight once, over the network cards of all its GPUs."""
    machine, costs = trainer.machine, trainer.costs
    rate = machine.chip.nvlink_bandwidth
    if max(trainer.plan.world_size, engines.plan.workers) > machine.gpus:
        rate = min(rate, machine.gpus * machine.chip.network_bandwidth)
    size = engines.weight_bytes * costs.parameters
    return {"bytes": size / (rate * constants.bandwidth), "tensors": costs.tensors * TENSOR_S}


def _aside(trainer: Trainer, engines: Engines) -> dict[str, float]:
    optimizer = 12 * trainer.costs.parameters / trainer.plan.world_size
    weights = engines.weight_bytes * trainer.costs.parameters / engines.plan.workers_per_replica
    return {
        "optimizer": 2 * optimizer / HOST_COPY_BANDWIDTH,
        "engines' weights": 2 * weights / HOST_COPY_BANDWIDTH,
    }


@dataclass(frozen=True, slots=True)
class Part:
    """Steps that are alike."""

    steps: int | None
    """None where the run does not say how many there are: an SFT's follow from its files."""
    phases: tuple[Phase, ...]
    seconds: float
    """Of one step."""
    tokens_per_s_per_gpu: float


@dataclass(frozen=True, slots=True)
class Times:
    """A run's times on paper."""

    unit: str
    """What a step is: a rollout, an update, or the whole of what is asked."""
    parts: tuple[Part, ...]
    """More than one where answers may get longer in the middle of the run."""
    gpus: int
    usd_per_gpu_hour: float | None

    @property
    def seconds(self) -> float | None:
        """Of the whole run; None where its steps are not known."""
        if any(part.steps is None for part in self.parts):
            return None
        return sum((part.steps or 0) * part.seconds for part in self.parts)

    @property
    def gpu_hours(self) -> float | None:
        """All GPUs', busy or not."""
        return None if self.seconds is None else self.seconds / 3600 * self.gpus

    @property
    def cost_usd(self) -> float | None:
        """None where steps or the price are not known."""
        if self.gpu_hours is None or self.usd_per_gpu_hour is None:
            return None
        return self.gpu_hours * self.usd_per_gpu_hour


def run_time(
    config: Config, hf: dict[str, Any], topology: Topology, costs: TokenCosts | None = None
) -> Times:
    """The times of a run whose layouts have been checked.

    Args:
        hf: the model's HF fields.
        costs: its numbers, where they have been counted before: a search tries many layouts of a model.

    Raises:
        BadRun: `cluster.gpu` names no GPU that is known.
    """
    cluster = config.cluster
    if cluster.gpu not in CHIPS:
        raise BadRun([f"cluster.gpu: was {cluster.gpu}; must be one of {', '.join(CHIPS)}"])
    machine = Machine(CHIPS[cluster.gpu], cluster.gpus_per_machine or topology.training.world_size)
    run = _Run(config, costs or token_costs(hf), topology, machine)
    unit, parts = _PARTS[config.stage](run)
    return Times(unit, tuple(parts), run.gpus, cluster.gpu_hour_usd)


@dataclass(frozen=True, slots=True)
class _Run:
    config: Config
    costs: TokenCosts
    topology: Topology
    machine: Machine

    @property
    def gpus(self) -> int:
        """That the run holds."""
        training, rollout = self.topology.training.world_size, self.topology.rollout.workers
        if self.config.stage not in GENERATING:
            return training
        apart = self.config.rollout.placement is Placement.apart
        return training + rollout if apart else max(training, rollout)

    @property
    def trainer(self) -> Trainer:
        """As `Policy` trains: nothing is exchanged while something is computed.

        What single modules compute again is not counted.
        """
        config = self.config
        return Trainer(
            self.costs,
            self.topology.training,
            self.machine,
            config.train.tokens_per_microbatch,
            fp8=config.precision.fp8 is not Fp8.none,
            recomputes=FULL_RECOMPUTE in config.train.recompute,
            drafts=config.stage in (Stage.pretrain, Stage.sft) and config.model.mtp_loss_weight > 0,
        )

    @property
    def engines(self) -> Engines:
        """The run's."""
        fp8 = self.config.rollout.fp8_weights
        return Engines(self.costs, self.topology.rollout, self.machine, fp8=fp8)

    def answers(self, longest: int) -> Lengths:
        """As long as expected, or half as long as they may be."""
        expected = self.config.rollout.expected_answer_tokens
        return Lengths(min(expected or longest / 2, longest), longest)

    @property
    def prompt_tokens(self) -> float:
        """Half of what the context leaves beside the longest answer."""
        rollout, grpo = self.config.rollout, self.config.grpo
        longest = max(rollout.max_answer_tokens, grpo.longer_answer_tokens or 0)
        return max(0, rollout.max_context_tokens - longest) / 2

    def asked(self, samples: int, samples_per_prompt: int, longest: int) -> Asked:
        """So many answers, of all engines."""
        rollout = self.config.rollout
        return Asked(
            samples,
            samples_per_prompt,
            self.prompt_tokens,
            self.answers(longest),
            rollout.concurrent_sequences,
            rollout.kv_cache_bytes,
        )

    def save(self, every: int) -> Phase:
        """A state's share of one step."""
        machines = -(-self.topology.training.world_size // self.machine.gpus)
        size = SAVED_BYTES * self.costs.parameters
        return Phase("save", {"written": size / (machines * SAVE_BANDWIDTH) / every})

    def part(self, work: Work, steps: int | None, *others: Phase) -> Part:
        """Steps of this work, and what comes with each."""
        phases = [*step_time(work), *others]
        seconds = step_seconds(work, phases)
        return Part(
            steps, tuple(phases), seconds, work.samples.number * work.samples.mean / seconds / self.gpus
        )


def _grpo(run: _Run) -> tuple[str, list[Part]]:
    config, grpo = run.config, run.config.grpo
    longer, first = grpo.longer_answer_tokens, grpo.rollouts
    if grpo.longer_after_update is not None and longer is not None:
        first = min(first, -(-grpo.longer_after_update // grpo.updates_per_rollout))
    spans = [(first, config.rollout.max_answer_tokens), (grpo.rollouts - first, longer or 0)]
    parts = []
    for rollouts, longest in spans:
        if not rollouts:
            continue
        asked = run.asked(samples_per_rollout(config), grpo.samples_per_prompt, longest)
        samples = Samples(asked.samples, asked.prompt_tokens, asked.answers)
        scored = 1 + (grpo.kl_coefficient > 0)
        work = Work(run.trainer, samples, grpo.updates_per_rollout, run.engines, asked, scored)
        parts.append(run.part(work, rollouts, run.save(config.checkpoint.save_every_rollouts)))
    return "rollout", parts


def _learning(run: _Run) -> tuple[str, list[Part]]:
    config = run.config
    samples = Samples(samples_per_update(config), 0, run.answers(config.rollout.max_context_tokens))
    steps = config.pretrain.updates if config.stage is Stage.pretrain else None
    if config.stage is Stage.sft and config.sft.token_budget is not None:
        steps = int(-(-config.sft.token_budget // (samples.number * samples.mean)))
    work = Work(run.trainer, samples, 1)
    return "update", [run.part(work, steps, run.save(config.checkpoint.save_every_updates))]


def _reject(run: _Run) -> tuple[str, list[Part]]:
    plan = run.config.reject
    return _answering(run, plan.questions, plan.samples_per_question, 1)


def _evaluate(run: _Run) -> tuple[str, list[Part]]:
    plan, models = run.config.eval, max(1, len(run.config.eval.models))
    questions = run.config.data.held_out_questions if plan.questions is None else plan.questions
    return _answering(run, questions, plan.samples_per_question, models)


def _answering(run: _Run, questions: int, each: int, times: int) -> tuple[str, list[Part]]:
    asked = run.asked(questions * each, each, run.config.rollout.max_answer_tokens)
    samples = Samples(asked.samples, asked.prompt_tokens, asked.answers)
    return "sampling", [run.part(Work(run.trainer, samples, 0, run.engines, asked), times)]


_PARTS = {
    Stage.grpo: _grpo,
    Stage.sft: _learning,
    Stage.pretrain: _learning,
    Stage.reward_model: _learning,
    Stage.reject: _reject,
    Stage.evaluate: _evaluate,
}
