"""The hand-over of a policy's weights to the engines, with its proof; and again to one that was lost.

An engine that died or hangs is ended with its workers and started anew, gets the policy's weights as all
engines do, proven, and what was asked is asked again, of all engines: requests carry their own seeds and a
hand-over empties every cache, so the answers are the same, bit by bit. Only an engine's *answer* that it
failed stops the run at once: asked again, it would fail again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

import torch.distributed as dist

from r1mega import watch
from r1mega.config import Config
from r1mega.model.rows import Sample
from r1mega.policy import Policy
from r1mega.rollout.engines import EngineError, EngineLost, Engines
from r1mega.rollout.transport import transport_to
from r1mega.stages.parts import Text
from r1mega.weights.proof import HandoverError, largest_difference

T = TypeVar("T")


class Handover:
    """One policy, its engines, and the way between them; `run` and `ask` are called on every rank."""

    def __init__(
        self,
        config: Config,
        policy: Policy,
        engines: Engines,
        probe: Sequence[Sequence[int]],
        earlier: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Wait for the engines and connect them.

        Args:
            probe: texts, as tokens, that both sides score after every hand-over: the trainer all of them,
                each engine its share; at least one for every engine.
            earlier: the `summary` of the hand-overs before the run was cut short, to go on from.
        """
        self.policy, self.engines = policy, engines
        self.tolerance = config.handover.max_abs_dlogp
        self.probe = probe
        self.count = earlier.get("count", 0)
        self.worst = earlier.get("max_abs_dlogp", 0.0)
        self.restarts, self.restarts_allowed = 0, config.rollout.engine_restarts
        self._restarted: list[str] = []
        """To be said once the weights are proven."""
        self.way = transport_to(engines, policy.pieces, policy.source, config.handover.buffer_bytes)
        self._connected: set[int] = set()
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
        self._connected -= lost.cases.keys()

    def _connect(self) -> None:
        """Have every engine up, and the way open to those that are new."""
        new = set(range(self.engines.replicas)) - self._connected
        if new:
            self.engines.wait()
            self.way.connect(new)
            self._connected |= new

    def _hand_over(self) -> dict[str, float]:
        watch.phase("the hand-over")
        began = time.monotonic()
        faults = self.way.send(self.policy.version)
        sent_at = time.monotonic()
        difference = self._prove(faults)
        self.count += 1
        self.worst = max(self.worst, difference)
        while self._restarted:
            _say(self._restarted.pop(0))
        return {
            "handover/max_abs_dlogp": difference,
            "handover/bytes": float(self.way.bytes),
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

    def _prove(self, faults: list[str]) -> float:
        """The largest difference of any log-prob, if that is right and nothing else is wrong."""
        differences = self.score_both_sides()
        faults = faults + [
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
