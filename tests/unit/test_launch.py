"""Our own launcher starts ranks that can meet, ends all when one ends badly, and leaves none behind."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from r1mega import launch

# What stands in for `python -m r1mega WORD`: writes its environment down, then does as the word says. All but
# the last rank wait, unless the word is `well`.
RANK = """#!{python}
import os, signal, sys, time
rank, word, folder = int(os.environ["RANK"]), sys.argv[3], os.path.dirname(__file__)
last = rank == int(os.environ["WORLD_SIZE"]) - 1
deaf_to_interrupts = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
def save(*given):
    time.sleep(0.2 * rank)
    sys.exit(75)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if word != "early":
    signal.signal(signal.SIGUSR1, signal.SIG_IGN if word == "deaf" and last else save)
names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"]
names.append("R1MEGA_LAUNCHED")
with open(f"{{folder}}/new.{{rank}}", "w") as out:
    print(os.getpid(), *(os.environ[name] for name in names), deaf_to_interrupts, file=out)
os.rename(f"{{folder}}/new.{{rank}}", f"{{folder}}/{{rank}}")
while not all(os.path.exists(f"{{folder}}/{{other}}") for other in range(int(os.environ["WORLD_SIZE"]))):
    time.sleep(0.01)
while word != "well" and not last or word in ("wait", "deaf", "early"):
    time.sleep(0.05)
if word == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit({{"well": 0, "saved": 75, "input": 2}}.get(word, 7))
"""
GOES_ON = "; the same command goes on from the last saved state\n"


@pytest.fixture
def ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where the ranks write; `sys.executable` is the stand-in while the test lasts."""
    program = tmp_path / "python"
    program.write_text(RANK.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(launch, "GRACE_S", 0.5)
    monkeypatch.setattr(launch, "LAST_WORDS_S", 0.1)
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def written(folder: Path) -> list[list[str]]:
    """What each rank wrote: its pid, then its environment."""
    return [path.read_text().split() for path in sorted(folder.glob("[0-9]"))]


def none_left(folder: Path) -> bool:
    pids = [int(words[0]) for words in written(folder)]
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)


def test_ranks_find_each_other(ranks: Path) -> None:
    assert launch.start_ranks(["well"], 3) == 0
    found = written(ranks)
    assert [words[1:6] for words in found] == [[f"{r}", f"{r}", "3", "3", "127.0.0.1"] for r in range(3)]
    [port] = {words[6] for words in found}
    assert 0 < int(port) < 2**16
    assert {words[7] for words in found} == {str(os.getpid())}


@pytest.mark.parametrize(
    ("word", "code", "said"),
    [
        ("badly", 7, "error: rank 2 (pid {pid}) ended with exit code 7" + GOES_ON),
        ("killed", 128 + signal.SIGKILL, "error: rank 2 (pid {pid}) was killed by SIGKILL" + GOES_ON),
        ("input", 2, ""),  # the rank has said what is wrong
    ],
)
def test_one_that_ends_badly_ends_all_with_its_code(
    ranks: Path, capsys: pytest.CaptureFixture[str], word: str, code: int, said: str
) -> None:
    began = time.monotonic()
    assert launch.start_ranks([word], 3) == code
    assert time.monotonic() - began < 10
    assert capsys.readouterr() == ("", said.format(pid=written(ranks)[2][0]))
    assert none_left(ranks)


def send_when_up(ranks: Path, number: signal.Signals, count: int) -> threading.Thread:
    """Send the signal to the launcher, which is this process, once so many ranks have written."""

    def send() -> None:
        while len(written(ranks)) < count:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_told_to_stop_the_ranks_save_each_in_its_time(
    ranks: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    thread = send_when_up(ranks, number, 3)
    assert launch.start_ranks(["wait"], 3) == 75
    thread.join()
    assert capsys.readouterr() == ("", "")  # the ranks say it
    assert signal.getsignal(number) == before
    assert none_left(ranks)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("deaf", "rank 1 (pid {pid}) did not end within 0 s of the others and was killed" + GOES_ON),
        ("early", "Stopped before the ranks had begun" + GOES_ON),
    ],
)
def test_ranks_that_do_not_stop_by_themselves(
    ranks: Path, capsys: pytest.CaptureFixture[str], word: str, said: str
) -> None:
    thread = send_when_up(ranks, signal.SIGUSR1, 2)
    assert launch.start_ranks([word], 2) == 75
    thread.join()
    assert capsys.readouterr() == ("", said.format(pid=written(ranks)[1][0]))
    assert none_left(ranks)


def test_one_that_saved_alone_ends_all(ranks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.start_ranks(["saved"], 2) == 75
    assert "rank 0 (pid" in capsys.readouterr().err
    assert none_left(ranks)


def test_an_interrupt_ends_all_quietly(ranks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    thread = send_when_up(ranks, signal.SIGINT, 2)
    assert launch.start_ranks(["wait"], 2) == 130
    thread.join()
    assert capsys.readouterr() == ("", "\nStopped.\n")
    assert none_left(ranks)


def test_an_interrupt_finds_no_rank_that_would_mind(ranks: Path) -> None:
    """A terminal's Ctrl-C reaches ranks too, also while Python starts, where it would leave a traceback."""
    assert launch.start_ranks(["well"], 2) == 0
    assert [words[-1] for words in written(ranks)] == ["True", "True"]


def environment(monkeypatch: pytest.MonkeyPatch, **values: str) -> dict[str, str]:
    given = dict(values)
    monkeypatch.setattr(launch.os, "environ", given)
    return given


def test_without_an_outer_launcher_the_ranks_are_ours_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch)
    assert launch.ranks_started() is None
    environment(monkeypatch, SLURM_JOB_ID="7")  # in an allocation, but not started by srun
    assert launch.ranks_started() is None


def test_torchruns_ranks_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, RANK="1", WORLD_SIZE="4")
    assert launch.ranks_started() == 4


def test_sruns_ranks_are_joined_in_torchs_words(monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_JOB_ID": "70001"}
    found = environment(monkeypatch, **slurm, SLURM_STEP_TASKS_PER_NODE="2(x2)")
    assert launch.ranks_started() == 4
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    assert [found[name] for name in names] == ["3", "1", "4", "2"]
    port = found["MASTER_PORT"]
    assert 1024 < int(port) < 2**16
    other = environment(monkeypatch, **slurm | {"SLURM_PROCID": "0"})
    launch.ranks_started()
    assert other["MASTER_PORT"] == port
