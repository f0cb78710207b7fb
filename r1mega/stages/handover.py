"""The hand-over of a policy's weights to the engines, with its proof; and again to one that was lost.

An engine that died or hangs is ended with its workers and started anew, gets the policy's weights as all
engines do, proven, and what was asked is asked again, of all engines: requests carry their own seeds and a
hand-over empties every cache, so the answers are the same, bit by bit. Only an engine's *answer* that it
failed stops the run at once: asked again, it would fail again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch.distributed as dist

from r1mega.config import Config
from r1mega.model.rows import Sample
from r1mega.policy import Policy
from r1mega.rollout.engines import EngineError, EngineLost, Engines
from r1mega.stages.parts import Text
from r1mega.weights.pieces import Place
from r1mega.weights.proof import HandoverError, check_receipt, largest_difference
from r1mega.weights.shared_memory import SharedMemorySender, Workers, plan_transfer, served_to_engine

T = TypeVar("T")


class Handover:
    """One policy, its engines, and the way between them; `run` and `ask` are called on every rank."""

    def __init__(
        self, config: Config, policy: Policy, engines: Engines, probe: Sequence[Sequence[int]]
    ) -> None:
        """Wait for the engines and connect them.

        Args:
            probe: texts, as tokens, that both sides score after every hand-over: the trainer all of them,
                each engine its share; at least one for every engine.
        """
        self.policy, self.engines = policy, engines
        self.tolerance = config.handover.max_abs_dlogp
        self.probe = probe
        self.count = 0
        self.worst = 0.0
        self.restarts, self.restarts_allowed = 0, config.rollout.engine_restarts
        self._restarted: list[str] = []
        """To be said once the weights are proven."""
        self._layouts: dict[int, list[dict[str, Any]]] = {}
        """Of the workers of each engine that is connected."""
        self._handed: dict[str, float] = {}
        """Figures of the hand-over that all engines hold; empty where one is due."""
        if len(probe) < engines.replicas:
            raise HandoverError(
                f"the probe has {len(probe)} texts; each of {engines.replicas} engines scores one"
            )
        self._surviving("the start", lambda: None)

    def run(self) -> dict[str, float]:
        """Hand the weights over and prove it.

        Returns:
            `handover/*` figures, the seconds it took, and how many engines were started anew so far.

        Raises:
            HandoverError: on every rank, naming what differs.
            EngineError: as `ask`.
        """
        self._handed = {}
        return self.ask("the hand-over", lambda: self._handed) | {
            "reliability/engine_restarts": float(self.restarts)
        }

    def ask(self, what: str, verb: Callable[[], T]) -> T:
        """What `verb` returns, which asks something of the engines; they hold the policy's weights, proven.

        Args:
            what: is asked, for the line that says that it is asked again.

        Raises:
            EngineError: on every rank; an engine answered that it failed, or one was lost when as many as
                `rollout.engine_restarts` had been started anew.
        """

        def when_handed() -> T:
            if not self._handed:
                self._handed = self._hand_over()
            return verb()

        return self._surviving(what, when_handed)

    def _surviving(self, what: str, verb: Callable[[], T]) -> T:
        """The verb with all engines connected; where one is lost on the way, again with a new one."""
        while True:
            try:
                self._connect()
                return verb()
            except EngineLost as lost:
                self._start_anew(lost, what)

    def _start_anew(self, lost: EngineLost, what: str) -> None:
        if self.restarts + len(lost.cases) > self.restarts_allowed:
            raise EngineError(
                f"{lost}; it is not started anew, as {self.restarts} engines were in this run"
                f" (rollout.engine_restarts = {self.restarts_allowed})"
            ) from lost
        self.restarts += len(lost.cases)
        self._restarted.append(
            f"{lost}; started anew, weights of version {self.policy.version} proven;"
            f" {what} is redone (restart {self.restarts} of {self.restarts_allowed})"
        )
        self.engines.start_anew(lost.cases)
        self._handed = {}
        for number in lost.cases:
            self._layouts.pop(number, None)

    def _connect(self) -> None:
        """Have every engine up, and the way planned to those that are new."""
        new = [number for number in range(self.engines.replicas) if number not in self._layouts]
        if not new:
            return
        self.engines.wait()
        served = served_to_engine(self.policy.source.holders)
        layouts = self._layouts | self.engines.connect({"tensors": _tensors(served)}, new)
        self.workers = Workers(layouts)
        try:
            self.plan = plan_transfer(served, self.workers, dist.get_world_size())
        except ValueError as error:
            raise HandoverError(f"the weights do not fit the engines:\n  {error}") from error
        slots = [
            [self.workers.slot(copy) for copy in self.plan.sent_to(worker)]
            for worker in range(self.plan.receivers)
        ]
        unmapped = self._map_memory()
        # An engine that died has no memory to map either, and is found here, on every rank.
        self.engines.expect_weights(self.workers.by_engine(slots))
        if unmapped is not None:
            raise HandoverError(f"an engine's memory cannot be mapped: {unmapped}") from unmapped
        self._layouts = layouts

    def _map_memory(self) -> OSError | None:
        """Map the memory that this rank writes to; returns why it cannot be."""
        try:
            self.sender = SharedMemorySender(self.policy.pieces, self.plan, self.workers, dist.get_rank())
        except OSError as error:
            return error
        return None

    def _hand_over(self) -> dict[str, float]:
        began = time.monotonic()
        receipts, sent = self._send()
        sent_at = time.monotonic()
        difference = self._prove(receipts, sent)
        self.count += 1
        self.worst = max(self.worst, difference)
        while self._restarted:
            _say(self._restarted.pop(0))
        return {
            "handover/max_abs_dlogp": difference,
            "handover/bytes": float(sum(self.plan.sent_bytes())),
            "timing_s/handover": sent_at - began,
            "timing_s/proof": time.monotonic() - sent_at,
        }

    def summary(self) -> dict[str, float]:
        """How many hand-overs were proven, the worst difference among them, engines started anew."""
        return {
            "count": self.count,
            "max_abs_dlogp": self.worst,
            "limit": self.tolerance,
            "engine_restarts": self.restarts,
        }

    def _send(self) -> tuple[dict[int, list[dict[str, Any]]], dict[int, int]]:
        """The workers' receipts by engine, and the checksum of each copy by its number."""
        self.engines.start_weight_update()
        own = self.sender.write()
        # No engine looks at its weights before every rank has written.
        dist.barrier()
        return self.read_back(own)

    def read_back(self, own: dict[int, int]) -> tuple[dict[int, list[dict[str, Any]]], dict[int, int]]:
        """What the workers read in their memory, by engine, and what every rank has written, by copy."""
        self.engines.begin_finish({"version": self.policy.version})
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, own)
        receipts = self.engines.end_finish()
        return receipts, {number: value for part in parts for number, value in part.items()}

    def _prove(self, receipts: dict[int, list[dict[str, Any]]], sent: dict[int, int]) -> float:
        of_workers: list[list[tuple[str, int]]] = [[] for _ in range(self.plan.receivers)]
        for number, copy in enumerate(self.plan.copies):
            of_workers[copy.receiver].append((str(copy.box), sent[number]))
        flat = [receipt for _, workers in sorted(receipts.items()) for receipt in workers]
        faults = [
            fault
            for name, expected, receipt in zip(self.workers.names, of_workers, flat, strict=True)
            for fault in check_receipt(self.policy.version, expected, receipt, name)
        ]
        differences = self.score_both_sides()
        faults += [
            f"engine {engine} scores the probe otherwise than the trainer: max |dlogp| {difference:.2e},"
            f" above handover.max_abs_dlogp = {self.tolerance:.0e}"
            for engine, difference in differences.items()
            if difference > self.tolerance
        ]
        if faults:
            raise HandoverError(
                f"the hand-over of policy version {self.policy.version} is not proven:\n  "
                + "\n  ".join(faults)
            )
        return max(differences.values())

    def score_both_sides(self) -> dict[int, float]:
        """By engine, the largest difference of any log-prob of its share of the probe to the trainer's."""
        ours = [logps.numpy() for logps in self.policy.score([Sample(text, 1) for text in self.probe], 1.0)]
        return {
            engine: largest_difference(self.engines.share(ours, engine), theirs)
            for engine, theirs in self.engines.score(self.probe).items()
        }


def _say(line: str) -> None:
    """One line on the terminal."""
    if dist.get_rank() == 0:
        print(line, flush=True)


def _tensors(places: Iterable[Place]) -> list[list[Any]]:
    """Name, dtype and shape of each tensor that the places are of."""
    return [
        [name, dtype, list(shape)]
        for name, dtype, shape in sorted({(p.name, p.dtype, p.shape) for p in places})
    ]


def probe_texts(config: Config, text: Text) -> list[list[int]]:
    """Held-out questions with their answers, in the form asked for, as tokens: what both sides score.

    Texts as the policy meets them, not random tokens: of those a trained model gives log-probs of -50,
    in which fp32 alone makes the two sides differ by nearly the limit.
    """
    chosen = text.questions.held_out[: config.handover.probe_samples]
    longest = config.rollout.max_context_tokens - 1  # the engine samples one token after a text
    answers = [f" <think> {one.answer} </think> <answer> {one.answer} </answer>" for one in chosen]
    return [
        [*text.prompt(question), *text.tokenizer.encode(answer).ids, text.end_token][:longest]
        for question, answer in zip(chosen, answers, strict=True)
    ]
