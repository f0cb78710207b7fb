"""A generated program's functions, called across the fence with plain values.

Only arguments go in. Whatever a call returns is plain data before it is looked at, so no object of the
program's ever takes part in a comparison.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, final

from r1mega.rewards.sandbox import Ended, Limits, Status, start
from r1mega.rewards.sandbox_values import NotPlain, dumps, loads

_HERE = Path(__file__).parent
_VALUES = {"r1mega/rewards/sandbox_values.py": (_HERE / "sandbox_values.py").read_text()}
_SERVE = (_HERE / "sandbox_serve.py").read_text()
_EXAM = (_HERE / "sandbox_exam.py").read_text()
_EXAM_LIMITS = Limits(cpu_s=30, wall_s=60.0)
_CPU_SIGNALS = (128 + 9, 128 + 24, 128 + 27)  # the kernel's at a limit, and the timer's of one call


class CallFailed(RuntimeError):
    """A call that gave no value.

    `status` says whether it failed or ran out of time or room, `over` that no other call can be made.
    """

    def __init__(self, status: Status, said: str, over: bool) -> None:
        super().__init__(f"{status.value}: {said}")
        self.status = status
        self.over = over


@final
class Functions:
    """Those of one program, in a sandbox of its own; a context manager.

    A call may take `limits.cpu_s` of processor time, all `calls` together as often as much, and none may
    last past `until`, by the monotonic clock. What the program remembers between calls stays inside.
    """

    def __init__(
        self,
        program: str,
        calls: int,
        limits: Limits,
        until: float,
        called_off: threading.Event | None = None,
    ) -> None:
        self._limits = limits
        self._until = until
        files = {"main.py": _SERVE, "program.py": program, **_VALUES}
        self._inside = start(files, replace(limits, cpu_s=limits.cpu_s * calls + 1), called_off)

    def call(self, function: str, arguments: Sequence[Any]) -> Any:
        """What the function returns. Raises `CallFailed`, or `NotPlain` for an argument."""
        nonce = secrets.token_hex(16)
        request = dumps((nonce, function, list(arguments), float(self._limits.cpu_s)))
        wait_s = min(self._limits.wall_s, self._until - time.monotonic())
        ended = self._inside.exchange(f"{request}\n".encode(), wait_s)
        if ended is not Ended.LINE:
            raise CallFailed(*self._failure(ended), over=True)
        said, _, told = self._inside.take_line().partition(b" ")
        if said != nonce.encode():
            raise CallFailed(Status.FAILED, "no reply to this call", over=True)
        return _value(told)

    def close(self) -> None:
        """End the program."""
        self._inside.close()

    def __enter__(self) -> Functions:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _failure(self, ended: Ended) -> tuple[Status, str]:
        if ended is not Ended.CLOSED:
            return (Status.TIME if ended is Ended.TIME else Status.FLOOD), ended.value
        code = self._inside.exit_status(1.0)
        late = code is None or code in _CPU_SIGNALS
        said = bytes(self._inside.errors[-500:]).decode(errors="replace")
        return (Status.TIME if late else Status.FAILED), f"exit status {code}; {said}"


def examine(
    program: str,
    function: str,
    prompt: str,
    test: str,
    limits: Limits,
    until: float,
    called_off: threading.Event | None = None,
) -> Status:
    """DONE if `program` passes `test`, which runs in another sandbox and calls its function across."""
    files = {"main.py": _EXAM, "prompt.py": prompt, "test.py": test, **_VALUES}
    nonce = secrets.token_hex(16)
    with (
        Functions(program, 1, limits, until, called_off) as functions,
        start(files, _EXAM_LIMITS, called_off) as examiner,
    ):
        reply = f"{nonce} {function}"
        while examiner.exchange(f"{reply}\n".encode(), _EXAM_LIMITS.wall_s) is Ended.LINE:
            told = examiner.take_line()
            if told == nonce.encode():
                return Status.DONE
            try:
                reply = dumps(("value", functions.call(function, loads(told))))
            except CallFailed as error:
                return error.status
        examiner.exit_status(1.0)  # raises where it never started
        return Status.FAILED


def _value(told: bytes) -> Any:
    try:
        kind, value = loads(told)
    except (NotPlain, ValueError, TypeError) as error:
        raise CallFailed(Status.FAILED, f"no value came back ({error})", over=False) from error
    if kind != "value":
        raise CallFailed(Status.FAILED, f"raised {value}", over=False)
    return value
