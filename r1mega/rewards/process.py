"""The parent's side of one worker: start it, hand it answers, and know how it ended.

A worker is started when it is first needed and again after it has died. Its verdicts come one by
one, so that what it had decided before it died is kept.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import final

from r1mega.rewards.accuracy import Gradable
from r1mega.rewards.protocol import READY, RIGHT

Claim = tuple[Gradable, str]
"""A question and the bare answer that was given to it."""

_START_S = 120.0  # imports on a busy machine
_WALL_PER_LIMIT = 10.0  # a worker that does not even use its processor time is given up after this
_ROOT = Path(__file__).resolve().parents[2]


class GraderError(RuntimeError):
    """Grading cannot go on: workers do not start, or the grader is closed."""


class End(Enum):
    """How a batch ended: all decided, or the worker went during the first undecided claim."""

    ALL = "all decided"
    TIME = "out of time"
    DEATH = "died"


@final
class WorkerProcess:
    """One worker; `grade` is called by one thread at a time, `stop` by any."""

    def __init__(self, time_limit_s: float, memory_bytes: int) -> None:
        self._time_limit_s = time_limit_s
        self._memory_bytes = memory_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._lock = threading.Lock()  # between starting and stopping

    def start(self) -> subprocess.Popen[bytes]:
        """Have a worker that is ready. Raises `GraderError` if none comes up."""
        if self._process is not None:
            return self._process
        process = self._spawn()
        if _read(process, _START_S) != READY:
            raise GraderError(f"a grading worker did not start (exit status {self._end()})")
        return process

    def grade(self, claims: Sequence[Claim]) -> tuple[list[bool], End]:
        """Verdicts in order, up to the first claim that the worker did not survive, if any."""
        process = self.start()
        verdicts: list[bool] = []
        try:
            _write(process, pickle.dumps(claims))
        except BrokenPipeError:
            self._end()
            return verdicts, End.DEATH
        while len(verdicts) < len(claims):
            replies = _read(process, _WALL_PER_LIMIT * self._time_limit_s)
            if not replies:
                code = self._end()
                late = replies is None or code == -signal.SIGPROF
                return verdicts, End.TIME if late else End.DEATH
            verdicts += [reply == RIGHT[0] for reply in replies]
        return verdicts, End.ALL

    def stop(self) -> None:
        """Kill the worker, and start none again."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "r1mega.rewards.worker"]
        limits = [str(os.getpid()), str(self._time_limit_s), str(self._memory_bytes)]
        with self._lock:
            if self._stopped:
                raise GraderError("the grader is closed")
            self._process = subprocess.Popen(
                command + limits,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for the run, not for its workers
            )
            return self._process

    def _end(self) -> int:
        """Kill and reap the worker; its exit status, negative for a signal."""
        assert self._process is not None
        process, self._process = self._process, None
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        return process.wait()


def _write(process: subprocess.Popen[bytes], message: bytes) -> None:
    assert process.stdin is not None
    rest = memoryview(message)
    while rest:
        rest = rest[os.write(process.stdin.fileno(), rest) :]


def _read(process: subprocess.Popen[bytes], within_s: float) -> bytes | None:
    """What the worker says next; b"" if it has ended, None if it says nothing in time."""
    assert process.stdout is not None
    output = process.stdout.fileno()
    poll = select.poll()
    poll.register(output, select.POLLIN)
    return os.read(output, 4096) if poll.poll(within_s * 1000) else None


def _environment() -> dict[str, str]:
    """The parent's, with this package importable and one thread for linear algebra."""
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
