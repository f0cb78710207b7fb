"""A run that is stopped, killed and finds its newest state damaged ends as one that nothing happened to."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.runs import SHORT, but_for_time, rows, run, start, weights

from r1mega.checkpoint.store import Store

RUN = (
    "run=cpu_zero",
    "name=short",
    *SHORT,
    "grpo.rollouts=6",
    "checkpoint.save_every_rollouts=4",
    "checkpoint.save_every_updates=3",
)
FILES = ("metrics.jsonl", "samples.jsonl", "pretrain.jsonl")


def until(home: Path, launcher: psutil.Popen, name: str, count: int) -> None:
    """Wait until the file has so many rows."""
    deadline = time.monotonic() + 240
    while not (home / "runs/short" / name).exists() or len(rows(home / "runs/short" / name)) < count:
        assert launcher.poll() is None, launcher.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ended(launcher: psutil.Popen) -> tuple[int, str]:
    """The exit code, and what was printed; nothing of the run is left."""
    family = launcher.children(recursive=True)
    printed, _ = launcher.communicate(timeout=120)
    _, alive = psutil.wait_procs(family, timeout=15)
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []
    return launcher.returncode, printed


def rank(launcher: psutil.Popen) -> int:
    """The pid of the second rank."""
    ranks = [one for one in launcher.children() if "r1mega" in one.cmdline()]
    assert len(ranks) == 2
    return int(max(ranks, key=lambda one: one.environ()["RANK"]).pid)


def damage(folder: Path, store: Store) -> str:
    """Flip a bit of the newest state."""
    newest = store.saved("rollout")[0]
    file = next(store.path(newest).glob("__*.distcp"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    return str(newest)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("undisturbed")
    done = run(home, *RUN)
    assert done.returncode == 0, done.stderr
    return home / "runs/short"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The run, killed in pre-training, told to stop, killed again, its newest state damaged; then let be."""
    home = tmp_path_factory.mktemp("disturbed")
    store = Store(home / "runs/short/checkpoints")
    said: dict[str, Any] = {"folder": home / "runs/short"}

    def begin_and(act: Callable[[psutil.Popen], None], name: str, count: int) -> tuple[int, str]:
        launcher = start(home, *RUN)
        until(home, launcher, name, count)
        act(launcher)
        return ended(launcher)

    said["killed early"] = begin_and(lambda one: os.kill(one.pid, signal.SIGKILL), "pretrain.jsonl", 5)
    said["told"] = begin_and(lambda one: os.kill(one.pid, signal.SIGUSR1), "metrics.jsonl", 2)
    said["states"] = [one.number for one in store.saved("rollout")]
    said["rollouts"] = len(rows(home / "runs/short/metrics.jsonl"))
    said["killed"] = begin_and(lambda one: os.kill(rank(one), signal.SIGKILL), "metrics.jsonl", 5)
    said["before"] = str(store.saved("rollout")[1])
    said["damaged"] = damage(home, store)
    done = run(home, *RUN)
    said["end"] = done.returncode, done.stdout + done.stderr
    return said


def test_each_end_is_told_by_code_and_word(told: Any) -> None:
    assert told["killed early"][0] == -signal.SIGKILL
    code, printed = told["told"]
    assert code == 75, printed
    assert "SIGUSR1" in printed
    assert "Traceback" not in printed
    code, printed = told["killed"]
    assert code == 128 + signal.SIGKILL, printed
    assert "was killed by SIGKILL" in printed
    assert "Traceback" not in printed


def test_what_was_asked_to_stop_had_saved_all_that_it_did(told: Any) -> None:
    assert told["rollouts"] in (2, 3)  # no rollout of which a state would be saved anyway
    assert told["states"] == [told["rollouts"]]
    assert f"Going on from rollout-{told['rollouts']:06d} of an earlier start." in told["killed"][1]


def test_a_damaged_state_is_named_and_the_one_before_it_taken(told: Any) -> None:
    code, printed = told["end"]
    assert code == 0, printed
    assert f"{told['damaged']} is damaged, and is now damaged-{told['damaged']}" in printed
    assert "its checksum is another" in printed
    assert f"Going on from {told['before']} of an earlier start." in printed


@pytest.mark.parametrize("name", FILES)
def test_every_row_is_there_once_and_as_undisturbed(told: Any, undisturbed: Path, name: str) -> None:
    found = [but_for_time(row) for row in rows(told["folder"] / name)]
    wanted = [but_for_time(row) for row in rows(undisturbed / name)]
    assert found == wanted
    assert len(wanted) >= 6


def test_the_weights_are_those_of_the_undisturbed_run_bit_for_bit(told: Any, undisturbed: Path) -> None:
    for model in ("base", "final"):
        assert weights(told["folder"] / model) == weights(undisturbed / model)


def test_only_the_last_states_are_kept(told: Any) -> None:
    store = Store(told["folder"] / "checkpoints")
    assert [one.number for one in store.saved("rollout")] == [6, 4]
    assert store.saved("pretrain") == []
