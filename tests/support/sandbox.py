"""Programs in the sandbox, watched from outside: what they started, took and opened, whatever they say."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from r1mega.rewards.sandbox import Ended, Limits, isolation, start

FAULTS = isolation()
if FAULTS and os.environ.get("R1MEGA_REQUIRE_SANDBOX"):
    raise RuntimeError(f"R1MEGA_REQUIRE_SANDBOX is set, and this machine cannot isolate: {'; '.join(FAULTS)}")

isolates = pytest.mark.skipif(
    bool(FAULTS), reason=f"NOT TESTED, this machine cannot isolate programs: {'; '.join(FAULTS)}"
)


@dataclass
class Seen:
    """What was seen of one run."""

    ended: Ended = Ended.CLOSED
    code: int | None = None
    stdout: bytes = b""
    processes: int = 0
    threads: int = 0
    resident_bytes: int = 0
    scratch_bytes: int = 0
    descriptors: set[str] = field(default_factory=set)
    devices: set[str] = field(default_factory=set)
    status: dict[str, str] = field(default_factory=dict)
    mounts: set[str] = field(default_factory=set)
    left_over: set[int] = field(default_factory=set)


def watch(program: str, limits: Limits | None = None) -> Seen:
    """Run `program` and look at it every few milliseconds; what is left of it is looked for at the end."""
    limits, seen, pids, over = limits or Limits(cpu_s=2, wall_s=8.0), Seen(), set(), threading.Event()
    with start({"main.py": program}, limits) as sandboxed:
        look = threading.Thread(target=_look, args=(sandboxed.pid, seen, pids, over))
        look.start()
        seen.ended = sandboxed.exchange(b"", limits.wall_s, end_of_input=True)
        seen.code = sandboxed.exit_status(5.0) if seen.ended is Ended.CLOSED else None
        seen.stdout = bytes(sandboxed.output)
        over.set()
        look.join()
    seen.left_over = _still_there(pids)
    return seen


def _look(outermost: int, seen: Seen, pids: set[int], over: threading.Event) -> None:
    while not over.wait(0.01):
        tree = descendants(outermost)
        pids |= set(tree)
        seen.processes = max(seen.processes, len(tree))
        for pid in tree:
            with suppress(OSError):
                _look_at(Path(f"/proc/{pid}"), seen)


def _look_at(process: Path, seen: Seen) -> None:
    lines = (process / "status").read_text().splitlines()
    status = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    inside = len(status["NSpid"].split()) > 1  # before that, it is this test's own child
    if inside and status["Name"] not in ("bwrap", "prlimit"):
        seen.status = status
        seen.threads = max(seen.threads, int(status["Threads"]))
        seen.resident_bytes = max(seen.resident_bytes, int(status.get("VmHWM", "0 kB").split()[0]) * 1024)
        seen.mounts |= {line.split()[1] for line in (process / "mounts").read_text().splitlines()}
        seen.descriptors |= {os.readlink(fd) for fd in (process / "fd").iterdir()}
        scratch = os.statvfs(process / "root/tmp")
        used = (scratch.f_blocks - scratch.f_bfree) * scratch.f_frsize
        seen.scratch_bytes = max(seen.scratch_bytes, used)
        files = [*(process / "root/dev").iterdir(), *(process / "root/tmp").iterdir()]
        nodes = [file for file in files if file.is_block_device() or file.is_char_device()]
        seen.devices |= {file.name for file in nodes if not file.is_symlink()}


def descendants(pid: int) -> list[int]:
    """A process and all that came of it."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def _still_there(pids: set[int], within_s: float = 5.0) -> set[int]:
    """Which of the processes do not go in time."""
    end = time.monotonic() + within_s
    while there := {pid for pid in pids if _alive(pid)}:
        if time.monotonic() > end:
            return there
        time.sleep(0.02)
    return set()


def _alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False
