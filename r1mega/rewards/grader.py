"""Grading of many answers at once, in worker processes that a hostile answer cannot hold up.

Guarantees: the components come back in the order of the texts and do not depend on the number of
workers; an answer that uses up its time limit is wrong and costs only that, its worker is
replaced, and the other answers are graded as without it. An answer is graded once more if its
worker died of something else, and is wrong if that one dies too. Equal answers to one question are
verified once. Workers start in the background and go when the grader is closed or its process
ends, however it ends.

Programs go to the sandbox instead, from threads of their own: as many at once as there are workers.

Refuses (`GraderError`) to grade when workers cannot start, the machine cannot isolate programs, or the
grader is closed; never by zeros.

The workers are our own rather than a pool library's because none we know has all three: a limit
for each answer of a batch, an idle worker's death survived, and no unpickling of what a process
that evaluates answers sends back.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import final

from r1mega.rewards import code
from r1mega.rewards.accuracy import Gradable, worth_verifying
from r1mega.rewards.process import Claim, End, GraderError, WorkerProcess
from r1mega.rewards.registry import answers_in, score
from r1mega.rewards.sandbox import CalledOff, SandboxError

_BATCH = 32  # answers a worker is handed at a time
_MEMORY_BYTES = 2 * 1024**3

__all__ = ["Grader", "GraderError", "Grading"]


@final
class Grading:
    """A batch on its way; `result` waits for it."""

    def __init__(
        self,
        samples: Sequence[tuple[Gradable, str, bool]],
        claims: Sequence[Claim],
        verdicts: Sequence[Future[list[bool]]],
    ) -> None:
        self._samples = samples
        self._claims = claims
        self._verdicts = verdicts

    def result(self) -> list[dict[str, float]]:
        """The components of each text by name, in order. Raises `GraderError`."""
        verdicts = [verdict for future in self._verdicts for verdict in future.result()]
        keys = [(question.id, given) for question, given in self._claims]
        right = {key for key, verdict in zip(keys, verdicts, strict=True) if verdict}

        def verified(question: Gradable, given: str | None) -> bool:
            return (question.id, given) in right

        return [score(question, text, truncated, verified) for question, text, truncated in self._samples]


@final
class Grader:
    """A few workers and the threads that feed them; a context manager."""

    def __init__(self, workers: int, time_limit_s: float, memory_bytes: int = _MEMORY_BYTES) -> None:
        """`time_limit_s` is processor time an answer, `memory_bytes` address space a worker."""
        self._workers = [WorkerProcess(time_limit_s, memory_bytes) for _ in range(workers)]
        self._idle: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        # The kernel ends a worker with the thread that started it, so these threads start them all.
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="grader")
        self._programs = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")
        self._closed = threading.Event()
        self._count_lock = threading.Lock()
        self._timeouts = 0
        self._starts = [self._threads.submit(self._verify, ()) for _ in self._workers]

    @property
    def timeouts(self) -> int:
        """Answers so far that used up their time limit."""
        return self._timeouts

    def wait_ready(self) -> None:
        """Wait until the workers have started, seconds after construction. Raises `GraderError`."""
        for start in self._starts:
            start.result()

    def submit(
        self,
        questions: Sequence[Gradable],
        texts: Sequence[str],
        truncated: Sequence[bool] | None = None,
    ) -> Grading:
        """Begin to grade `texts[i]` as the answer to `questions[i]`; a truncated one earns 0."""
        cut = [False] * len(texts) if truncated is None else truncated
        samples = list(zip(questions, texts, cut, strict=True))
        claims = _claims(samples)
        programs = [claim for claim in claims if code.is_code(claim[0].entry)]
        others = [claim for claim in claims if not code.is_code(claim[0].entry)]
        batches = [others[i : i + _BATCH] for i in range(0, len(others), _BATCH)]
        try:
            verdicts = [self._threads.submit(self._verify, batch) for batch in batches]
            verdicts += [self._programs.submit(self._run, claim) for claim in programs]
        except RuntimeError as error:  # the threads are shut down
            raise GraderError("the grader is closed") from error
        return Grading(samples, others + programs, verdicts)

    def grade(
        self,
        questions: Sequence[Gradable],
        texts: Sequence[str],
        truncated: Sequence[bool] | None = None,
    ) -> list[dict[str, float]]:
        """The components of each text by name, e.g. {"accuracy": 1.0, "format": 0.0, ...}."""
        return self.submit(questions, texts, truncated).result()

    def close(self) -> None:
        """Stop workers and threads; what is not graded yet never will be."""
        self._closed.set()
        for threads in (self._threads, self._programs):
            threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.stop()
        for threads in (self._threads, self._programs):
            threads.shutdown(wait=True)

    def __enter__(self) -> Grader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _verify(self, claims: Sequence[Claim]) -> list[bool]:
        """Verdicts of one batch, on whichever worker is idle; an empty batch only starts it."""
        worker = self._idle.get()
        try:
            return self._verify_on(worker, claims)
        finally:
            self._idle.put(worker)

    def _verify_on(self, worker: WorkerProcess, claims: Sequence[Claim]) -> list[bool]:
        verdicts: list[bool] = []
        died_at = -1
        end = None
        while end is not End.ALL:
            decided, end = worker.grade(claims[len(verdicts) :])
            verdicts += decided
            if end is End.TIME or (end is End.DEATH and died_at == len(verdicts)):
                self._count_timeout(end)
                verdicts.append(False)
            elif end is End.DEATH:
                died_at = len(verdicts)
        return verdicts

    def _run(self, claim: Claim) -> list[bool]:
        """The verdict on a program, run here in the sandbox."""
        question, given = claim
        try:
            report = code.examine_answer(question.entry, given, self._closed, to_the_end=False)
        except CalledOff as error:
            raise GraderError("the grader is closed") from error
        except SandboxError as error:
            raise GraderError(f"a program could not be run safely: {error}") from error
        self._count_timeout(End.TIME if report.out_of_time else End.ALL)
        return [report.all_passed]

    def _count_timeout(self, end: End) -> None:
        with self._count_lock:
            self._timeouts += end is End.TIME


def _claims(samples: Sequence[tuple[Gradable, str, bool]]) -> list[Claim]:
    """The different answers in a batch that are worth a worker's time, in order of first
    appearance."""
    claims: dict[tuple[str, str], Claim] = {}
    for question, text, truncated in samples:
        for given in sorted(answers_in(question, text, truncated), key=str):
            if given is not None and worth_verifying(question, given):
                claims.setdefault((question.id, given), (question, given))
    return list(claims.values())
