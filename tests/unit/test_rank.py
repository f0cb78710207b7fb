"""How a rank ends: what a person can mend is one line, what nobody foresaw keeps its traceback."""

from __future__ import annotations

import errno
import os

import pytest

from r1mega import rank, stopping
from r1mega.config import Config, Stage
from r1mega.parallel.plan import Plan


def ended(monkeypatch: pytest.MonkeyPatch, error: Exception, *, fresh: bool = False) -> int:
    """The exit code of rank 0 whose stage raises the error."""

    def stage(config: Config, plan: Plan) -> int:
        raise error

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setattr(rank, "prepare_process", lambda config: None)
    monkeypatch.setattr(rank, "_take_part", stage)
    plan = Plan(tp=1, pp=1, vpp=1, ep=1, etp=1, cp=1, dp=1)
    return rank.run_rank(Config(stage=Stage.grpo, name="x", fresh=fresh), plan)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_with_the_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    error = OSError(number, os.strerror(number), "runs/x/metrics.jsonl")
    assert ended(monkeypatch, error) == 1
    assert capsys.readouterr().err == f"error: runs/x/metrics.jsonl: {os.strerror(number)}\n"
    assert ended(monkeypatch, OSError(number, os.strerror(number))) == 1
    assert capsys.readouterr().err == f"error: runs/x: {os.strerror(number)}\n"


def test_other_errors_of_files_are_not_mistaken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PermissionError):
        ended(monkeypatch, PermissionError(errno.EACCES, "Permission denied"))


def test_who_is_told_to_stop_ends_with_75_and_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, stopping.Stop("SIGUSR1")) == 75
    assert capsys.readouterr().err == "Saved and stopped (SIGUSR1); the same command goes on.\n"
    assert ended(monkeypatch, stopping.Stop("SIGTERM"), fresh=True) == 75
    assert "the same command without fresh=true goes on" in capsys.readouterr().err
