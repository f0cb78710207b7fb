"""The rollout side as the trainer's ranks see it: engines to submit prompts to and to hand weights to.

Every rank holds an `Engines` and calls its verbs in the same order with the same arguments. An engine is
a process of one rank (its owner), which alone talks to it; results go to all ranks, in the order of the
requests. Which engine samples a request follows from the request's position alone, and what it samples
from the request's seed, so a rollout repeats bit by bit.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch.distributed as dist

from r1mega.rollout.host import Completion, EngineSettings, Request, main

T = TypeVar("T")


class EngineError(RuntimeError):
    """An engine failed, died, or did not come up in time; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A rollout under way."""

    requests: int


class Engine:
    """One engine's process, as its owner holds it."""

    def __init__(self, number: int, settings: EngineSettings, answer_timeout_s: float) -> None:
        self.number = number
        self.answer_timeout_s = answer_timeout_s
        self.log = settings.log
        self.pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(
            target=main, args=(theirs, settings), daemon=True, name=f"engine-{number}"
        )
        self.process.start()
        theirs.close()

    def send(self, verb: str, **arguments: Any) -> None:
        """Begin a verb; `receive` ends it."""
        try:
            self.pipe.send((verb, arguments))
        except ConnectionError as error:
            raise self._gone() from error

    def receive(self, timeout_s: float | None = None) -> Any:
        """What the verb begun last returned.

        Raises:
            EngineError: it failed, the engine died, or nothing came within the time.
        """
        timeout_s = self.answer_timeout_s if timeout_s is None else timeout_s
        try:
            if not self.pipe.poll(timeout_s):
                raise EngineError(
                    f"engine {self.number} did not answer within {timeout_s:.0f} s; its log: {self.log}"
                )
            outcome, result = self.pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._gone() from error
        if outcome == "error":
            raise EngineError(f"engine {self.number} failed; its log: {self.log}\n{result}")
        return result

    def call(self, verb: str, **arguments: Any) -> Any:
        """`send`, then `receive`."""
        self.send(verb, **arguments)
        return self.receive()

    def _gone(self) -> EngineError:
        self.process.join(timeout=5)
        return EngineError(
            f"engine {self.number} died (exit code {self.process.exitcode}); its log: {self.log}"
        )

    def close(self) -> None:
        """End the process."""
        self.pipe.close()
        self.process.join(timeout=2)
        self.process.kill()
        self.process.join()


class Engines:
    """All engines of the run."""

    def __init__(
        self,
        settings: EngineSettings,
        replicas: int,
        *,
        start_timeout_s: float = 180.0,
        answer_timeout_s: float = 1800.0,
    ) -> None:
        """Start the engines; returns at once, `wait` waits for them.

        Args:
            settings: of each; cores and log are shared out, each engine gets its own.
            start_timeout_s: how long an engine may take to come up.
            answer_timeout_s: how long it may take over any one verb after that.
        """
        self.replicas = replicas
        self.start_timeout_s = start_timeout_s
        rank, ranks = dist.get_rank(), dist.get_world_size()
        self.own = [
            Engine(number, _for_replica(settings, number), answer_timeout_s)
            for number in range(replicas)
            if number % ranks == rank
        ]

    def wait(self) -> None:
        """Wait until every engine is up.

        Raises:
            EngineError: on every rank, where any engine did not come up.
        """
        deadline = time.monotonic() + self.start_timeout_s
        self._together(lambda engine: engine.receive(max(0.0, deadline - time.monotonic())))

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
            # An engine that is gone is for `collect` to report: it raises on every rank.
            with contextlib.suppress(EngineError):
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
        """The answers of a ticket, in the order of its requests, on every rank."""
        parts = self._together(lambda engine: engine.receive())
        completions: list[Any] = [None] * ticket.requests
        for number, part in parts.items():
            completions[number :: self.replicas] = part
        return completions

    def score(self, texts: Sequence[Sequence[int]]) -> dict[int, list[np.ndarray]]:
        """By engine, the log-probs of its share of the texts: of their tokens but the first."""
        return self._together(
            lambda one: one.call("score", texts=[list(text) for text in self.share(texts, one.number)])
        )

    def share(self, texts: Sequence[T], engine: int) -> Sequence[T]:
        """Of what is dealt out, the engine's: every `replicas`-th from its number on."""
        return texts[engine :: self.replicas]

    def connect(self, init_info: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
        """vLLM's `init_weight_transfer_engine` on every engine; by engine, its workers' layouts."""
        return self._together(lambda engine: engine.call("init_weight_transfer_engine", init_info=init_info))

    def expect_weights(self, slots: dict[int, list[Any]]) -> None:
        """Tell every worker what each update will write into it."""
        self._together(lambda engine: engine.call("expect_weights", of_workers=slots[engine.number]))

    def start_weight_update(self) -> None:
        """vLLM's `start_weight_update`, on every engine."""
        self._together(lambda engine: engine.call("start_weight_update"))

    def begin_finish(self, update_info: dict[str, Any]) -> None:
        """Begin vLLM's update and finish of a weight update; `end_finish` ends it."""
        for engine in self.own:
            # As with `submit`: an engine that is gone is for `end_finish` to report.
            with contextlib.suppress(EngineError):
                engine.send("finish_weight_update", update_info=update_info)

    def end_finish(self) -> dict[int, list[dict[str, Any]]]:
        """By engine, its workers' receipts."""
        return self._together(lambda engine: engine.receive())

    def _together(self, verb: Callable[[Engine], Any]) -> dict[int, Any]:
        """The verb on every engine; results by engine number, on every rank.

        A failure on one rank is raised on all, so that none waits for an answer that will not come.
        """
        try:
            mine: Any = {engine.number: verb(engine) for engine in self.own}
        except EngineError as error:
            mine = error
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, mine)
        for theirs in everyone:
            if isinstance(theirs, EngineError):
                raise theirs
        return {number: result for theirs in everyone for number, result in theirs.items()}

    def close(self) -> None:
        """End the engines of this rank."""
        for engine in self.own:
            engine.close()


def _for_replica(settings: EngineSettings, number: int) -> EngineSettings:
    threads = len(settings.cores)  # of all its workers
    available = sorted(os.sched_getaffinity(0))
    cores = tuple(available[(number * threads + i) % len(available)] for i in range(threads))
    return replace(settings, cores=cores, log=str(Path(settings.log).with_suffix(f".{number}.log")))
