"""One program behind the fence, and the pipes to it.

Guarantees: no call waits longer than it is told to, whatever the program does or leaves undone; of what it
prints, no more than the limit is kept, and a program that prints more is killed; when a `Sandboxed` is
closed, or its process dies however it dies, nothing of the program is left. Raises `SandboxError` where the
fence itself could not be put up: that is never a program's failure.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from enum import Enum
from types import TracebackType
from typing import final

from r1mega.rewards.sandbox_fence import Limits, command, seccomp_filter

_GLANCE_S = 0.1  # how often a wait looks whether it is called off


class SandboxError(RuntimeError):
    """A program could not be run behind the fence, and so was not run at all."""


class CalledOff(RuntimeError):
    """The one who asked for a run wants it no more."""


class Ended(Enum):
    """Why a wait is over."""

    LINE = "a whole line has come"
    CLOSED = "the program closed its output, as by ending"
    TIME = "out of time"
    FLOOD = "printed more than its limit"


@final
class Sandboxed:
    """`files["main.py"]` running; a context manager that leaves nothing behind.

    The program also goes with the thread that started it.
    """

    def __init__(
        self, files: Mapping[str, str], limits: Limits, called_off: threading.Event | None = None
    ) -> None:
        self.output = bytearray()
        self.errors = bytearray()
        self._limits = limits
        self._called_off = called_off or threading.Event()
        with ExitStack() as stack:
            given = {name: _readable(text.encode(errors="replace"), stack) for name, text in files.items()}
            rules = _readable(seccomp_filter(), stack)
            self._status, status = os.pipe()
            stack.callback(os.close, status)
            self._process = subprocess.Popen(
                command(limits, given, rules, status),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                pass_fds=[*given.values(), rules, status],
                env={},  # bubblewrap empties the program's; this is bubblewrap's own
                start_new_session=True,
            )
        for fd in (self._stdin, self._stdout, self._stderr):
            os.set_blocking(fd, False)

    @property
    def pid(self) -> int:
        """Of the outermost process, as this machine counts."""
        return self._process.pid

    def exchange(self, message: bytes, within_s: float, end_of_input: bool = False) -> Ended:
        """Send `message`, then take output until a line is whole, or with `end_of_input` all of it.

        What came is in `output`, past lines taken off by `take_line`. Raises `CalledOff`.
        """
        rest = memoryview(message)
        until = time.monotonic() + within_s
        open_fds = {self._stdout, self._stderr}
        while self._stdout in open_fds or (end_of_input and open_fds):
            if not rest and end_of_input:
                self._close_input()
            elif not end_of_input and b"\n" in self.output:
                return Ended.LINE
            if max(len(self.output), len(self.errors)) > self._limits.output_bytes:
                return Ended.FLOOD
            left_s = until - time.monotonic()
            if left_s <= 0:
                return Ended.TIME
            for fd in self._ready(open_fds, bool(rest), left_s):
                if fd == self._stdin:
                    rest = self._write(rest)
                elif not self._take(fd):
                    open_fds.discard(fd)
        return Ended.CLOSED

    def take_line(self) -> bytes:
        """The first whole line of what came."""
        line, _, rest = bytes(self.output).partition(b"\n")
        self.output[:] = rest
        return line

    def exit_status(self, within_s: float) -> int | None:
        """The program's own, 128 + n if signal n ended it; None if it does not end in time.

        Raises `SandboxError` if it was never started.
        """
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            return None
        told = os.read(self._status, 4096).decode()
        codes = [json.loads(line).get("exit-code") for line in told.splitlines()]
        code = next((code for code in codes if code is not None), None)
        if code is None and self._process.returncode >= 0:
            raise SandboxError(
                f"the sandbox did not start: {bytes(self.errors[-500:]).decode(errors='replace')}"
            )
        return self._process.returncode if code is None else int(code)

    def close(self) -> None:
        """Kill the program if it runs, and wait until all of it is gone."""
        self._process.kill()  # what is inside goes with it: bubblewrap's die-with-parent
        self._close_input()
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()
        self._process.wait()
        os.close(self._status)

    def __enter__(self) -> Sandboxed:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _stdin(self) -> int:
        assert self._process.stdin is not None
        return -1 if self._process.stdin.closed else self._process.stdin.fileno()

    @property
    def _stdout(self) -> int:
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    @property
    def _stderr(self) -> int:
        assert self._process.stderr is not None
        return self._process.stderr.fileno()

    def _ready(self, reading: set[int], writing: bool, left_s: float) -> list[int]:
        if self._called_off.is_set():
            raise CalledOff("a run in the sandbox was called off")
        poll = select.poll()
        for fd in reading:
            poll.register(fd, select.POLLIN)
        if writing and self._stdin >= 0:
            poll.register(self._stdin, select.POLLOUT)
        return [fd for fd, _ in poll.poll(min(left_s, _GLANCE_S) * 1000)]

    def _write(self, rest: memoryview) -> memoryview:
        """What is left to write; nothing where nobody reads any more."""
        try:
            return rest[os.write(self._stdin, rest) :]
        except BlockingIOError:
            return rest
        except BrokenPipeError:
            return rest[:0]

    def _take(self, fd: int) -> bool:
        """Take what has come; whether more may come."""
        chunk = os.read(fd, 65536)
        (self.output if fd == self._stdout else self.errors).extend(chunk)
        return bool(chunk)

    def _close_input(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()


def _readable(content: bytes, stack: ExitStack) -> int:
    """A descriptor from which a child process reads `content`."""
    fd = os.memfd_create("sandbox")
    stack.callback(os.close, fd)
    with open(fd, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
