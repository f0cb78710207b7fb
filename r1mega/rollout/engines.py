"""The rollout side as the trainer's ranks see it: engines to submit prompts to and to hand weights to.

Every rank holds an `Engines` and calls its verbs in the same order with the same arguments. An engine is
a process of one rank (its owner), which alone talks to it; results go to all ranks, in the order of the
requests. Which engine samples a request follows from the request's position alone, and what it samples
from the request's seed, so a rollout repeats bit by bit.

An engine that died or hangs raises `EngineLost` on every rank, after all others have answered: they are
ready for the next verb, and `start_anew` gives the lost one a new process.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import struct
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch.distributed as dist

from r1mega import stopping
from r1mega.rollout.host import Completion, EngineSettings, Request, main
from r1mega.rollout.placement import Seat

T = TypeVar("T")

LOOK_S = 0.5
"""How often one that waits for an answer looks whether the run is to stop."""
END_S = 2.0
"""How long engines may take to end by themselves."""


class EngineError(RuntimeError):
    """An engine failed, died, or did not come up in time; the message says which and why."""


class EngineLost(EngineError):
    """Engines died or hang: no answer of theirs will come, but a new process may take their place.

    Attributes:
        cases: what happened, by the engine's number.
    """

    def __init__(self, cases: Mapping[int, str]) -> None:
        super().__init__(cases)
        self.cases = dict(cases)

    def __str__(self) -> str:
        return "; ".join(case for _, case in sorted(self.cases.items()))


@dataclass(frozen=True, slots=True)
class Ticket:
    """A rollout under way."""

    requests: int


class Engine:
    """One engine's process, as its owner holds it."""

    def __init__(self, number: int, settings: EngineSettings, answer_timeout_s: float) -> None:
        self.number = number
        self.log = settings.log
        self.answer_timeout_s = answer_timeout_s
        self.up = False
        self._verb, self._sent = "its start", True
        self.pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(
            target=main, args=(theirs, settings), daemon=True, name=f"engine-{number}"
        )
        self.process.start()
        theirs.close()

    def wait(self, timeout_s: float) -> None:
        """Wait until it is up.

        Raises:
            EngineError: it is not in time. No case for a new process, which would take as long.
        """
        if self.up:
            return
        if not self._answers(timeout_s, stoppable=True):
            raise EngineError(f"engine {self.number} did not come up within {timeout_s:.0f} s{self._log()}")
        self.receive()
        self.up = True

    def send(self, verb: str, **arguments: Any) -> None:
        """Begin a verb; `receive` ends it, and says what went wrong here too."""
        self._verb, self._sent = verb, False
        _wait_at_most(self.pipe, self.answer_timeout_s)
        with contextlib.suppress(OSError):
            self.pipe.send((verb, arguments))
            self._sent = True

    def receive(self, *, stoppable: bool = False) -> Any:
        """What the verb begun last returned.

        Raises:
            EngineLost: it died, or did not answer in time.
            EngineError: it answered that it failed.
            Stop: the run is to stop, and the wait is `stoppable`.
        """
        try:
            if not self._answers(self.answer_timeout_s if self._sent else 0.0, stoppable):
                raise TimeoutError
            outcome, result = self.pipe.recv()
        except (EOFError, ConnectionError) as error:
            self.process.join(timeout=5)
            raise self._lost(f"died (exit code {self.process.exitcode})") from error
        except (TimeoutError, BlockingIOError) as error:
            raise self._lost(f"did not answer within {self.answer_timeout_s:.0f} s") from error
        if outcome == "error":
            raise EngineError(f"engine {self.number} failed{self._log()}\n{result}")
        return result

    def call(self, verb: str, **arguments: Any) -> Any:
        """`send`, then `receive`."""
        self.send(verb, **arguments)
        return self.receive()

    def _answers(self, timeout_s: float, stoppable: bool) -> bool:
        """Wait for an answer; whether there is one, if only that the pipe's other end is closed."""
        deadline = time.monotonic() + timeout_s
        while not self.pipe.poll(max(0.0, min(LOOK_S, deadline - time.monotonic()))):
            reason = stopping.asked() if stoppable else None
            if reason is not None:
                raise stopping.Stop(reason)
            if time.monotonic() >= deadline:
                return False
        return True

    def _lost(self, how: str) -> EngineLost:
        return EngineLost({self.number: f"engine {self.number} {how} in {self._verb}{self._log()}"})

    def _log(self) -> str:
        return f" (its log: {self.log})"

    def kill(self) -> None:
        """End the process at once, stopped or not; its workers end with it."""
        self.pipe.close()
        self.process.kill()
        self.process.join()


def _wait_at_most(pipe: Connection, timeout_s: float) -> None:
    """Give up on a message that stays halfway: `poll` sees only whether one begins.

    One who has stopped takes up no more than the socket's buffer holds, and ends no answer that it began.
    """
    with socket.socket(fileno=os.dup(pipe.fileno())) as end:
        limit = struct.pack("ll", int(timeout_s), int(timeout_s % 1 * 1e6))
        for way in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            end.setsockopt(socket.SOL_SOCKET, way, limit)


class Engines:
    """All engines of the run."""

    def __init__(
        self,
        settings: EngineSettings,
        seats: Sequence[Seat],
        *,
        start_timeout_s: float = 180.0,
        answer_timeout_s: float = 1800.0,
    ) -> None:
        """Start the engines; returns at once, `wait` waits for them.

        Args:
            settings: of each; cores and log are shared out, each engine gets its own.
            seats: one an engine.
            start_timeout_s: how long an engine may take to come up.
            answer_timeout_s: how long it may take over any one verb after that.
        """
        self.seats = seats
        self.replicas = len(seats)
        self.settings = settings
        self.start_timeout_s, self.answer_timeout_s = start_timeout_s, answer_timeout_s
        self.own = [self._start(number) for number, seat in enumerate(seats) if seat.owner == dist.get_rank()]

    def _start(self, number: int) -> Engine:
        settings = _for_replica(self.settings, number, self.seats[number])
        return Engine(number, settings, self.answer_timeout_s)

    def wait(self) -> None:
        """Wait until every engine is up.

        Raises:
            EngineError: on every rank, where any engine did not come up.
            Stop: on every rank, where the run is to stop meanwhile.
        """
        self.together(lambda engine: engine.wait(self.start_timeout_s))

    def start_anew(self, lost: Collection[int]) -> None:
        """Begin new processes in place of these engines'; `wait` waits for them, they hold no weights."""
        for place, engine in enumerate(self.own):
            if engine.number in lost:
                engine.kill()
                self.own[place] = self._start(engine.number)

    def submit(
        self,
        requests: Sequence[Request],
        *,
        temperature: float,
        top_p: float,
        max_answer_tokens: int,
        stop_token: int,
    ) -> Ticket:
        """Begin to sample one answer a request, each until its `stop_token` or the limit."""
        for engine in self.own:
            engine.send(
                "generate",
                requests=list(self.share(requests, engine.number)),
                temperature=temperature,
                top_p=top_p,
                max_answer_tokens=max_answer_tokens,
                stop_token=stop_token,
            )
        return Ticket(len(requests))

    def collect(self, ticket: Ticket) -> list[Completion]:
        """The answers of a ticket, in the order of its requests, on every rank.

        Raises:
            Stop: on every rank, where the run is to stop meanwhile. The engines are at work then, and good
                for nothing but to be closed.
        """
        parts = self.together(lambda engine: engine.receive(stoppable=True))
        completions: list[Any] = [None] * ticket.requests
        for number, part in parts.items():
            completions[number :: self.replicas] = part
        return completions

    def score(self, texts: Sequence[Sequence[int]]) -> dict[int, list[np.ndarray]]:
        """By engine, the log-probs of its share of the texts: of their tokens but the first."""
        return self.together(
            lambda one: one.call("score", texts=[list(text) for text in self.share(texts, one.number)])
        )

    def share(self, texts: Sequence[T], engine: int) -> Sequence[T]:
        """Of what is dealt out, the engine's: every `replicas`-th from its number on."""
        return texts[engine :: self.replicas]

    def connect(self, init_info: dict[str, Any], of: Collection[int]) -> dict[int, list[dict[str, Any]]]:
        """vLLM's `init_weight_transfer_engine` on these engines; by engine, its workers' layouts."""

        def init(engine: Engine) -> Any:
            engine.call("init_weight_transfer_engine", init_info=init_info)
            return engine.call("weight_layout")

        return self.together(init, of)

    def expect_weights(self, slots: dict[int, list[Any]]) -> None:
        """Tell every worker what each update will write into it."""
        self.together(lambda engine: engine.call("expect_weights", of_workers=slots[engine.number]))

    def start_weight_update(self) -> None:
        """vLLM's `start_weight_update`, on every engine."""
        self.together(lambda engine: engine.call("start_weight_update"))

    def begin_finish(self, update_info: dict[str, Any]) -> None:
        """Begin vLLM's update and finish of a weight update; `end_finish` ends it."""
        for engine in self.own:
            engine.send("finish_weight_update", update_info=update_info)

    def end_finish(self) -> dict[int, list[dict[str, Any]]]:
        """By engine, its workers' receipts."""
        return self.together(lambda engine: engine.receive())

    def together(self, verb: Callable[[Engine], Any], of: Collection[int] | None = None) -> dict[int, Any]:
        """What the owners do with every engine, or with these; results by engine number, on every rank.

        What one rank is to raise is raised on all, so that none waits for an answer that will not come.
        """
        mine = {
            engine.number: _outcome(verb, engine) for engine in self.own if of is None or engine.number in of
        }
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, mine)
        outcomes = {number: outcome for theirs in everyone for number, outcome in theirs.items()}
        _raise_gravest(outcomes.values())
        return outcomes

    def close(self) -> None:
        """End the engines of this rank; those that do not by themselves, stopped ones too, are killed."""
        for engine in self.own:
            engine.pipe.close()
        deadline = time.monotonic() + END_S
        for engine in self.own:
            engine.process.join(timeout=max(0.0, deadline - time.monotonic()))
            engine.kill()


def _outcome(verb: Callable[[Engine], Any], engine: Engine) -> Any:
    """What the verb returns or raises; after a failure the other engines are still to be heard."""
    try:
        return verb(engine)
    except (EngineError, stopping.Stop) as error:
        return error


def _raise_gravest(outcomes: Iterable[Any]) -> None:
    """Being told to stop goes before a failure, and that before lost engines, which are named together."""
    lost: dict[int, str] = {}
    failed: EngineError | None = None
    for outcome in outcomes:
        if isinstance(outcome, stopping.Stop):
            raise outcome
        if isinstance(outcome, EngineLost):
            lost |= outcome.cases
        elif isinstance(outcome, EngineError):
            failed = failed or outcome
    if failed is not None:
        raise failed
    if lost:
        raise EngineLost(lost)


def _for_replica(settings: EngineSettings, number: int, seat: Seat) -> EngineSettings:
    threads = len(settings.cores)  # of all its workers
    available = sorted(os.sched_getaffinity(0))
    cores = tuple(available[(number * threads + i) % len(available)] for i in range(threads))
    log = str(Path(settings.log).with_suffix(f".{number}.log"))
    return replace(settings, cores=cores, gpus=seat.gpus, log=log)
