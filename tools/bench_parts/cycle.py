"""The third ratio: the real loop's whole cycle, and the sum of the raw parts of the same work.

The loop is `r1mega.stages.grpo.train` itself, nothing left out: questions, grading, log-probs,
updates, the hand-over with its proof, the recorded rows. It is interrupted between two cycles to time
the raw parts of the one that ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.distributed as dist

from bench_parts import raw_megatron
from bench_parts.raw_vllm import RawVllm
from bench_parts.timing import Turn, timed
from r1mega.config import Config
from r1mega.grpo.minibatch import split
from r1mega.model.rows import Sample
from r1mega.policy import Policy
from r1mega.rewards import accuracy, registry
from r1mega.rollout.host import Request
from r1mega.stages.recorder import Recorder
from r1mega.stages.sampling import Batch

PHASE, RAW, PROBE = "timing_s/", "raw/", "raw probe/"
"""How names in a turn begin: the loop's own timings, raw parts, the raw parts of a proof."""

Part = Callable[[], object]


class Cycles(Recorder):
    """The loop's recorder, which learns by it when a cycle ends; `turns` are its figures."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.turns: list[Turn] = []

    def begin(
        self,
        policy: Policy,
        probe: Sequence[Sequence[int]],
        raw: RawVllm | None,
        requests: Callable[[], Sequence[Request]],
    ) -> None:
        """Get ready, right before the loop.

        Args:
            probe: the texts that prove a hand-over.
            raw: the raw engine to compare with, on rank 0.
            requests: those that the cycle sent to the engines.
        """
        self._policy, self._probe, self._raw, self._requests = policy, probe, raw, requests
        accuracy.warm_up()
        self._cycle_began = time.perf_counter()

    def rollout(self, row: Mapping[str, Any], progress: Any) -> None:
        """A cycle's row: also keep its timings."""
        super().rollout(row, progress)
        self._phases = {name: value for name, value in row.items() if name.startswith(PHASE)}

    def samples(self, batch: Batch, components: Any, numbers: Sequence[int], **label: str | int) -> None:
        """The end of a cycle."""
        super().samples(batch, components, numbers, **label)
        dist.barrier()
        seconds = time.perf_counter() - self._cycle_began
        self.turns.append(
            {"r1mega": seconds, **self._phases, **self._raw_parts(int(label["rollout"]), batch)}
        )
        dist.barrier()
        self._cycle_began = time.perf_counter()

    def _raw_parts(self, rollout: int, batch: Batch) -> dict[str, float]:
        parts = self._parts(rollout, batch)
        generated = self._raw.generate(self._requests())[0] if self._raw else 0.0
        dist.barrier()
        seconds = {name: timed(part)[0] for name, part in parts.items()}
        probed = self._raw.score(self._probe) if self._raw else 0.0
        dist.barrier()
        return {f"{RAW}generate": generated, **seconds, f"{PROBE}engine": probed}

    def _parts(self, rollout: int, batch: Batch) -> dict[str, Part]:
        """Everything but the engine's parts, ready to run: rows are packed, copies have a place."""
        policy, updates = self._policy, self.config.grpo.updates_per_rollout
        cuts = split(len(batch.samples), updates, seed=self.config.seed, rollout=rollout)
        whole = raw_megatron.rows(policy, batch.samples)
        minibatches = [raw_megatron.rows(policy, [batch.samples[i] for i in cut]) for cut in cuts]
        probe = raw_megatron.rows(policy, [Sample(text, 1) for text in self._probe])
        copies = policy.snapshot()

        def update() -> None:
            for rows in minibatches:
                raw_megatron.update(policy, rows)

        def copy() -> None:
            for place, piece in zip(copies, policy.pieces, strict=True):
                place.copy_(piece.tensor)

        return {
            f"{RAW}grade": lambda: _grade(batch),
            f"{RAW}forward, old": lambda: raw_megatron.forward(policy, whole),
            f"{RAW}forward, reference": lambda: raw_megatron.forward(policy, whole),
            f"{RAW}updates": update,
            f"{RAW}copy of the weights": copy,
            f"{PROBE}trainer": lambda: raw_megatron.forward(policy, probe),
        }


def _grade(batch: Batch) -> list[dict[str, float]]:
    """This rank's share of the answers, graded here and now."""
    share = slice(dist.get_rank(), None, dist.get_world_size())
    answers = zip(batch.questions[share], batch.texts[share], batch.truncated[share], strict=True)
    return [registry.score(question, text, truncated) for question, text, truncated in answers]
