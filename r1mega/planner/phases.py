"""What every rank holds in every phase of a run, by cause, and which rank holds most.

The phases are those of the stage's own loop (`r1mega/stages`). In this version nothing is set aside between
them: gradients and optimizer stay where they are while engines generate, on the same GPUs or on others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from r1mega.config import GENERATING, Backend, Config, Placement, Stage
from r1mega.parallel.plan import Topology
from r1mega.planner.activations import Activations, Layers, RowSize
from r1mega.planner.batch import rows_per_update
from r1mega.planner.engines import gathered_bytes, largest_tensor, worker_weights
from r1mega.planner.training import FP32, MOMENTS, Trainer

Causes = dict[str, int]
"""Bytes by cause."""

OPTIMIZING = (Stage.grpo, Stage.sft, Stage.pretrain, Stage.reward_model)
DRAFTS_LEARN = (Stage.pretrain, Stage.sft)
UNVALIDATED = " (TE, unvalidated)"
"""Of activations that follow from Transformer Engine's sources and were not measured."""
PLANNED = (*OPTIMIZING, Stage.reject, Stage.evaluate)


@dataclass(frozen=True, slots=True)
class Phase:
    """The rank, or the engine's worker, that holds most in a phase."""

    name: str
    who: str
    causes: Causes

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(self.causes.values())


class Memory:
    """A run's memory on paper."""

    def __init__(
        self,
        config: Config,
        hf: dict[str, Any],
        topology: Topology,
        judges: Mapping[str, dict[str, Any]],
    ) -> None:
        """Nothing is counted until it is asked for.

        Args:
            hf: the model's HF fields, with a scalar head where a reward model is trained.
            judges: those of each reward model that the run asks.
        """
        self.config = config
        self.hf = hf
        self.plan, self.rollout = topology.training, topology.rollout
        self.trainer = Trainer(hf, self.plan, config.precision.dtype)
        self.judges = {
            name: Trainer(fields, self.plan, config.precision.dtype) for name, fields in judges.items()
        }
        self.optimizes = config.stage in OPTIMIZING
        self.generates = config.stage in GENERATING
        self.has_reference = config.stage is Stage.grpo and config.grpo.kl_coefficient > 0
        self.on_gpus = config.cluster.backend is Backend.cuda
        self.shared = self.generates and self.on_gpus and config.rollout.placement is Placement.shared

    @cached_property
    def phases(self) -> list[Phase]:
        """All phases of the run, in their order."""
        found = [self._worst(name) for name in self._extras[0]]
        if self.generates and not self.shared:
            found.append(self._apart())
        return found

    @cached_property
    def activations(self) -> Activations:
        """Of a row that is full, of samples as long as they may be; on GPUs those of Transformer Engine."""
        config, plan = self.config, self.plan
        tokens = config.train.tokens_per_microbatch // plan.row_multiple * plan.row_multiple
        longest = plan.padded(config.rollout.max_context_tokens)
        return Activations(
            self.hf,
            plan,
            RowSize(tokens=tokens, samples=max(1, tokens // longest), longest=longest),
            config.precision.dtype,
            Layers.te if self.on_gpus else Layers.torch,
            config.train.recompute,
            rows_per_update(config, plan) if self.optimizes else 1,
        )

    @cached_property
    def workers(self) -> list[int]:
        """Bytes of the weights of each worker of an engine; none where the run has no engines."""
        return worker_weights(self.hf, self.rollout, self.config) if self.generates else []

    def resident(self, rank: int) -> Causes:
        """What the rank holds whatever it does."""
        return self._of_trainer(rank) | self._of_engine(rank)

    def _of_trainer(self, rank: int) -> Causes:
        trainer = self.trainer
        causes = {
            "weights": trainer.weights(rank),
            "router biases": trainer.router_state(rank),
            "gradients, fp32": trainer.gradients(rank),
        }
        if self.optimizes:
            causes["optimizer"] = trainer.optimizer(rank)
        if self.has_reference:
            causes["reference"] = trainer.stage_of(rank).snapshot_bytes
        for name, judge in self.judges.items():
            causes[f"reward model: {name}"] = judge.frozen(rank)
        return causes

    def _of_engine(self, rank: int) -> Causes:
        if not self.shared or rank >= self.rollout.workers:
            return {}
        return {
            "engine: weights": self.workers[rank % self.rollout.workers_per_replica],
            "engine: KV cache": self.config.rollout.kv_cache_bytes,
        }

    def _named(self, causes: Mapping[str, int]) -> Causes:
        """Activations, as the plan names them."""
        mark = UNVALIDATED if self.on_gpus else ""
        return {f"activations{mark}: {cause}": size for cause, size in causes.items()}

    @cached_property
    def _extras(self) -> list[dict[str, Causes]]:
        """By pipeline rank and phase, what each of its ranks holds besides."""
        return [self._extras_of(stage) for stage in range(self.plan.pp)]

    def _extras_of(self, number: int) -> dict[str, Causes]:
        stage = self.trainer.stages[number]
        snapshot = stage.snapshot_bytes
        phases: dict[str, Causes] = {}
        if self.generates:
            phases["rollout"] = {}
        if self.config.stage is Stage.grpo:
            scoring = self._named(self.activations.scoring(number))
            phases["log-probs"] = scoring
            if self.has_reference:
                phases["log-probs of the reference"] = {"own weights, set aside": snapshot} | scoring
        if self.optimizes:
            # Where draft layers do not learn they are put back after each update.
            learns = self.config.stage in DRAFTS_LEARN and self.config.model.mtp_loss_weight
            phases["update"] = {"draft layers, set aside": 0 if learns else stage.draft_bytes} | self._named(
                self.activations.update(number)
            )
        if self.has_reference:
            phases["a new reference"] = {"the new one, beside the old": snapshot}
        if self.generates:
            phases["hand-over"] = self._handover
        if self.optimizes:
            phases["save"] = self._save(snapshot, stage.gathered_bytes)
        return phases

    def _save(self, snapshot: int, gathered: int) -> Causes:
        """The optimizer's state is gathered a bucket at a time; then the reference is described."""
        described = 2 * snapshot if self.has_reference else 0
        gathers = gathered if self.on_gpus else 0
        return {"gathered, or the reference's copies": max(described, gathers)}

    @cached_property
    def _handover(self) -> Causes:
        if not self.on_gpus:
            return {}
        buffer = max(self.config.handover.buffer_bytes, largest_tensor(self.hf, self.config))
        # vLLM's sender by `nccl` packs into two buffers in turn, that by `ipc` into one.
        return {
            "layers, gathered": gathered_bytes(self.hf, self.config),
            "buffer": buffer * (1 if self.shared else 2),
        }

    def _apart(self) -> Phase:
        worker = max(range(self.rollout.workers_per_replica), key=self.workers.__getitem__)
        causes = {
            "engine: weights": self.workers[worker],
            "engine: KV cache": self.config.rollout.kv_cache_bytes,
        }
        if self.on_gpus:
            causes["buffer"] = self._handover["buffer"]
        return Phase("rollout, engines", f"worker {worker} of each engine", causes)

    @cached_property
    def _ranks(self) -> list[int]:
        """A rank of each kind; ranks of the same kind hold as much in every phase."""
        kinds: dict[tuple[int, ...], int] = {}
        for rank in range(self.plan.world_size):
            in_engine = self.shared and rank < self.rollout.workers
            engine = rank % self.rollout.workers_per_replica if in_engine else -1
            kinds.setdefault((*self.trainer.places[rank], engine), rank)
        return list(kinds.values())

    @cached_property
    def _bytes_by_place(self) -> dict[tuple[int, int, int], int]:
        """What the trainer holds on the ranks of each place, whatever it does."""
        of_places = {place: rank for rank, place in enumerate(self.trainer.places)}
        return {place: sum(self._of_trainer(rank).values()) for place, rank in of_places.items()}

    def trainer_bytes(self) -> dict[str, int]:
        """By phase, what the trainer's worst rank holds besides any engine."""
        most: dict[int, int] = {}
        for (stage, *_), size in self._bytes_by_place.items():
            most[stage] = max(size, most.get(stage, 0))
        return {
            phase: max(most[stage] + sum(extras[phase].values()) for stage, extras in enumerate(self._extras))
            for phase in self._extras[0]
        }

    @cached_property
    def _resident_bytes(self) -> dict[int, int]:
        places = self.trainer.places
        return {
            rank: self._bytes_by_place[places[rank]] + sum(self._of_engine(rank).values())
            for rank in self._ranks
        }

    def _worst(self, phase: str) -> Phase:
        extras = [of_stage[phase] for of_stage in self._extras]
        more = [sum(causes.values()) for causes in extras]
        stage_of = self.trainer.places
        worst = max(self._ranks, key=lambda rank: self._resident_bytes[rank] + more[stage_of[rank][0]])
        causes = self.resident(worst) | extras[stage_of[worst][0]]
        return Phase(phase, f"rank {worst}", {cause: size for cause, size in causes.items() if size})


def state_bytes(trainer: Trainer, parameters: int, biases: int, has_reference: bool) -> int:
    """A saved state on disk, all ranks' files together: every weight once, its fp32 master and moments.

    Args:
        parameters: of the whole model, each once.
        biases: elements of the routers' biases.
    """
    weights = parameters * trainer.stages[0].weight_bytes + biases * FP32
    return weights * (1 + has_reference) + parameters * (1 + MOMENTS) * FP32


def staged_bytes(trainer: Trainer, rank: int, has_reference: bool) -> int:
    """Host memory of a rank while it saves: the optimizer's whole state of its shard, and what it writes."""
    gathered = sum(buffer.unpadded for buffer in trainer.stage_of(rank).buffers) * (1 + MOMENTS) * FP32
    return gathered + written_bytes(trainer, rank, has_reference)


def written_bytes(trainer: Trainer, rank: int, has_reference: bool) -> int:
    """What a rank writes of a state: the shards of which it holds the first copy."""
    at, stage = trainer.plan.coordinates(rank), trainer.stage_of(rank)
    width = stage.weight_bytes

    def is_first(expert: bool, split: bool) -> bool:
        copies = (at["edp"],) if expert else (at["cp"], at["dp"])
        return not any(copies) and (split or at["etp" if expert else "tp"] == 0)

    own = sum(w.elements for w in stage.weights if is_first(w.expert, w.split) and not w.copy)
    biases = stage.bias_elements * FP32 if is_first(expert=False, split=False) else 0
    return (own * width + biases) * (1 + has_reference) + own * (1 + MOMENTS) * FP32


def staged_by_rank(trainer: Trainer, has_reference: bool) -> list[int]:
    """Host memory of every rank while it saves."""
    made: dict[tuple[int, ...], int] = {}
    found = []
    for rank in range(trainer.plan.world_size):
        at = trainer.plan.coordinates(rank)
        firsts = at["tp"] == 0, at["etp"] == 0, at["cp"] + at["dp"] == 0, at["edp"] == 0
        kind = (at["pp"], *firsts)
        if kind not in made:
            made[kind] = staged_bytes(trainer, rank, has_reference)
        found.append(made[kind])
    return found
