"""Ctrl-C in the middle of a run: it ends soon and quietly, and nothing of it lives on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from support.command import environment
from support.runs import OURS, SHORT


def session(leader: int) -> list[psutil.Process]:
    """The living processes of the session, the leader's own excepted."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != leader and os.getsid(process.pid) == leader and process.status() != "zombie":
                found.append(process)
        except (ProcessLookupError, psutil.Error):
            continue
    return found


def wait_for(condition: object, process: subprocess.Popen[str], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def printed(tmp_path: Path) -> Path:
    return tmp_path / "printed"


@pytest.mark.parametrize("moment", ["while the base is trained", "before the ranks are up"])
def test_an_interrupted_run_ends_quietly_and_whole(tmp_path: Path, printed: Path, moment: str) -> None:
    overrides = ["run=cpu_zero", "name=short", *SHORT, "pretrain.updates=5000"]
    with printed.open("w") as output:
        process = subprocess.Popen(
            [*OURS, *overrides],
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
    try:
        if moment == "before the ranks are up":
            wait_for(lambda: len(session(process.pid)) == 2, process, 60)
        else:
            rows = tmp_path / "runs" / "short" / "pretrain.jsonl"
            wait_for(lambda: rows.exists() and rows.read_text().count("\n") > 2, process, 200)
        # As a terminal does: to the whole foreground group.
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=30) == 130
        deadline = time.monotonic() + 10
        while session(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert session(process.pid) == []
        assert "Traceback" not in printed.read_text()
        assert printed.read_text().endswith("Stopped.\n")
    finally:
        for left in session(process.pid):
            left.kill()
        process.kill()
        process.wait()
