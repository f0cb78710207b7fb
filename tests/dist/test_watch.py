"""Ranks that stop, hang, are killed or told to stop: named on the terminal, with a fitting exit code, and in
every case nothing of the run is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from support.command import environment

LAUNCHER = """
import sys
from r1mega import launch
launch.LAST_WORDS_S = 0.5
if sys.argv[2] == "bare":
    launch.GRACE_S = 0.5
sys.exit(launch.start_ranks(sys.argv[2:], int(sys.argv[1]), program=["-m", "support.watched"]))
"""
AT = r"since \d\d:\d\d:\d\d"


class Started:
    """A launcher and its ranks, which have met."""

    def __init__(self, how: str, ranks: int, folder: Path) -> None:
        self.printed = folder / "printed"
        with self.printed.open("w") as output:
            self.launcher = subprocess.Popen(
                [sys.executable, "-c", LAUNCHER, str(ranks), how, str(folder)],
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while not all((folder / str(rank)).exists() for rank in range(ranks)):
            assert self.launcher.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)
        self.pids = [int((folder / str(rank)).read_text()) for rank in range(ranks)]

    def said(self) -> str:
        return self.printed.read_text()

    def ends(self) -> int:
        """The launcher's exit code, once it and all ranks are gone."""
        code = self.launcher.wait(timeout=60)
        deadline = time.monotonic() + 5
        while living := [pid for pid in self.pids if _lives(pid)]:
            assert time.monotonic() < deadline, living
            time.sleep(0.02)
        return code

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.launcher.pid, signal.SIGKILL)
        self.launcher.wait()


def _lives(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


@contextmanager
def started(how: str, ranks: int, folder: Path) -> Iterator[Started]:
    run = Started(how, ranks, folder)
    try:
        yield run
    finally:
        run.kill()


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_rank_that_is_stopped_is_named(tmp_path: Path, stopped: int) -> None:
    with started("bare", 2, tmp_path) as run:
        time.sleep(1)  # signs of life are given five times a second
        began = time.monotonic()
        os.kill(run.pids[stopped], signal.SIGSTOP)
        assert run.ends() == 75
        assert 1.5 < time.monotonic() - began < 20
        who = rf"error: rank {stopped} \(host \S+, pid {run.pids[stopped]}\)"
        [first, then] = run.said().splitlines()
        assert re.fullmatch(
            rf"{who} has given no sign of life for 2 s; it was in (adding|the work after adding) {AT}", first
        )
        assert (
            then
            == f"rank {stopped} (pid {run.pids[stopped]}) did not end within 0 s of the others and was killed"
        )


def test_a_rank_that_ended_earlier_is_no_fault(tmp_path: Path) -> None:
    with started("early", 2, tmp_path) as run:
        assert run.ends() == 0
        assert run.said() == ""


def test_one_that_is_stuck_is_told_by_those_that_wait_for_it(tmp_path: Path) -> None:
    with started("stuck", 2, tmp_path) as run:
        assert run.ends() == 1
        first = run.said().splitlines()[0]
        assert re.fullmatch(
            r"error: rank 0 lost the others \(.*Timed out.*\); it was"
            rf" in adding {AT}, rank 1 in dreaming {AT}",
            first,
        )


def test_told_to_stop_all_ranks_do(tmp_path: Path) -> None:
    with started("whole", 2, tmp_path) as run:
        os.kill(run.launcher.pid, signal.SIGUSR1)
        assert run.ends() == 75
        assert run.said() == "Saved and stopped (SIGUSR1); the same command goes on.\n"


def test_a_killed_rank_takes_the_others_with_it(tmp_path: Path) -> None:
    with started("bare", 2, tmp_path) as run:
        os.kill(run.pids[1], signal.SIGKILL)
        assert run.ends() == 128 + signal.SIGKILL
        assert f"error: rank 1 (pid {run.pids[1]}) was killed by SIGKILL\n" in run.said()


def test_ranks_do_not_outlive_their_launcher(tmp_path: Path) -> None:
    with started("bare", 2, tmp_path) as run:
        run.launcher.kill()
        assert run.ends() == -signal.SIGKILL


def test_an_interrupt_ends_them_quietly(tmp_path: Path) -> None:
    with started("bare", 2, tmp_path) as run:
        os.killpg(run.launcher.pid, signal.SIGINT)
        assert run.ends() == 130
        assert run.said() == "\nStopped.\n"
