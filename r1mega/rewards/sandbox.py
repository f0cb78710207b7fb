"""Running generated programs where they can do no harm, or not at all.

`run` takes a whole program and its input; `serve` keeps a program's functions callable, by values that are
plain Python. `isolation` says what this machine lacks for it, by running a program that tries what it must
not be able to do. Both verbs refuse (`SandboxError`) on a machine that does not isolate; there is no
weaker way to run a program. The fence is in `sandbox_fence`, what it held against in docs/code_rewards.md.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from enum import Enum
from functools import cache
from pathlib import Path
from typing import NamedTuple

from r1mega.rewards.sandbox_fence import PYTHON, Limits, missing_tools, seccomp_filter
from r1mega.rewards.sandbox_process import CalledOff, Ended, Sandboxed, SandboxError

__all__ = [
    "CalledOff",
    "Ended",
    "Limits",
    "Outcome",
    "SandboxError",
    "Sandboxed",
    "Status",
    "isolation",
    "run",
]

_PACKAGES = {
    "setpriv": "util-linux",
    "prlimit": "util-linux",
    "bwrap": "bubblewrap",
    "libseccomp": "libseccomp2",
}
_PACKAGES[PYTHON] = "python3"
_SELF_TEST = Path(__file__).with_name("sandbox_self_test.py")
_CPU_SIGNALS = (128 + 9, 128 + 24)  # SIGKILL is the kernel's at the hard limit


class Status(Enum):
    """How a run ended."""

    DONE = "ended with exit status 0"
    FAILED = "ended otherwise"
    TIME = "killed, out of time"
    FLOOD = "killed, it printed more than its limit"


class Outcome(NamedTuple):
    """What a run gave: bytes as they came, cut at the limit."""

    status: Status
    stdout: bytes
    stderr: bytes


def run(
    program: str,
    stdin: bytes = b"",
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    called_off: threading.Event | None = None,
) -> Outcome:
    """Run `program` to its end. Raises `SandboxError`, and `CalledOff` once that event is set."""
    return _run(start({"main.py": program}, limits, called_off), stdin, limits)


def start(files: Mapping[str, str], limits: Limits, called_off: threading.Event | None = None) -> Sandboxed:
    """`files["main.py"]` running beside the other files. Raises `SandboxError` if it would not be fenced."""
    faults = isolation()
    if faults:
        raise SandboxError("; ".join(faults))
    return Sandboxed(files, limits, called_off)


@cache
def isolation() -> tuple[str, ...]:
    """What keeps this machine from running programs safely, each with how to mend it; empty if nothing.

    Empty only after a program that tried to get out really ran in the sandbox, and did not.
    """
    missing = missing_tools()
    if missing:
        packages = " ".join(sorted({_PACKAGES[tool] for tool in missing}))
        return (f"{', '.join(missing)} not found: make sandbox (or apt-get install {packages})",)
    try:
        seccomp_filter()
    except Exception as error:  # ImportError, or whatever libseccomp says
        return (f"no system call filter ({error!r}): pip install pyseccomp, with libseccomp 2.5.4 or later",)
    return _self_test()


def _self_test() -> tuple[str, ...]:
    limits = Limits(wall_s=60.0)
    try:
        outcome = _run(Sandboxed({"main.py": _SELF_TEST.read_text()}, limits), b"", limits)
    except (SandboxError, OSError) as error:
        return (f"{str(error).strip()}: {_remedy(str(error))}",)
    if outcome.status is Status.DONE and outcome.stdout == b"fenced\n":
        return ()
    said = (outcome.stdout + outcome.stderr).decode(errors="replace").strip()[-500:]
    return (
        f"the sandbox's self-test: {outcome.status.value}; {said}: report it, with this machine's kernel",
    )


def _remedy(error: str) -> str:
    if "namespace" in error or "uid map" in error or "Operation not permitted" in error:
        return (
            "user namespaces are refused here: sysctl -w those there are of user.max_user_namespaces=10000,"
            " kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0; start a"
            " container with --security-opt seccomp=unconfined --security-opt systempaths=unconfined"
        )
    if "Unknown option" in error:
        return "bubblewrap 0.8 or later is needed"
    return "the sandbox needs bubblewrap 0.8, util-linux 2.33 and a kernel with user namespaces"


def _run(sandboxed: Sandboxed, stdin: bytes, limits: Limits) -> Outcome:
    with sandboxed as program:
        ended = program.exchange(stdin, limits.wall_s, end_of_input=True)
        code = program.exit_status(1.0) if ended is Ended.CLOSED else None
        stdout, stderr = (bytes(text[: limits.output_bytes]) for text in (program.output, program.errors))
    return Outcome(_status(ended, code), stdout, stderr)


def _status(ended: Ended, code: int | None) -> Status:
    if ended is Ended.FLOOD:
        return Status.FLOOD
    if code is None or code in _CPU_SIGNALS:
        return Status.TIME
    return Status.DONE if code == 0 else Status.FAILED
