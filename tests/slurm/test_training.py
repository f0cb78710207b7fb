"""The real thing on a real Slurm: `sbatch slurm/r1_grpo.sh` trains, is stopped, is killed, and finishes.

Two trainer ranks on two nodes and two engines, one a node, unless the test says otherwise.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.runs import SHORT, but_for_time, rows, weights
from support.slurm import SCRIPTS, Cluster, needs_slurm, until

pytestmark = needs_slurm
NODES = 5
ROLLOUTS = 3
RUN = (
    "run=cpu_zero",
    *SHORT,
    f"grpo.rollouts={ROLLOUTS}",
    "rollout.replicas=2",
    "checkpoint.save_every_rollouts=1",
    "checkpoint.save_every_updates=4",
)
SIZE = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0")
# n2 is the one that dies in a test before.
FOUR = ("--nodes=4", "--ntasks-per-node=1", "--gpus-per-node=0", "--exclude=n2")
ROOM = {"R1MEGA_FREE_GIB": "0.1"}
Left = tuple[list[dict[str, Any]], dict[str, str]]


def submit(
    cluster: Cluster, folder: Path, name: str, *more: str, size: tuple[str, ...] = SIZE, **of: str
) -> str:
    script = str(SCRIPTS / "r1_grpo.sh")
    options = [*size, f"--job-name={name}", f"--output={name}.log"]
    return cluster.submit(folder, *options, script, *RUN, f"name={name}", *more, **ROOM | of)


def finished(cluster: Cluster, folder: Path, name: str, number: str, lives: int, nodes: int = 2) -> Left:
    """What the run leaves that must repeat, after a look at whether all is there, and once."""
    cluster.wait_until_ended(500, number)
    log, job = (folder / f"{name}.log").read_text(), cluster.job(number)
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", str(lives - 1)), log
    starts = [line for line in log.splitlines() if line.startswith("r1mega: start ")]
    assert len(starts) == lives, log
    assert log.count(f"preflight of {nodes} nodes: all well") == lives
    run = folder / "runs" / name
    metrics = rows(run / "metrics.jsonl")
    assert [row["rollout"] for row in metrics] == list(range(1, ROLLOUTS + 1)), log
    assert [row["update"] for row in rows(run / "pretrain.jsonl")] == list(range(1, 9))
    summary = json.loads((run / "summary.json").read_text())
    assert summary["train"]["rollouts"] == ROLLOUTS
    return [but_for_time(row) for row in metrics], weights(run / "final")


def rollouts(folder: Path, name: str) -> int:
    file = folder / "runs" / name / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def until_rollout(folder: Path, name: str, count: int) -> None:
    until(
        lambda: rollouts(folder, name) >= count,
        300,
        lambda: (folder / f"{name}.log").read_text() if (folder / f"{name}.log").exists() else "no log",
    )


def processes(cluster: Cluster, number: str) -> Iterator[tuple[str, psutil.Process]]:
    """All of the job's processes, each with its node."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            of = process.environ()
            ours = of.get("SLURM_CONF") == cluster.environment["SLURM_CONF"]
            if ours and of.get("SLURM_JOB_ID") == number:
                yield of["SLURMD_NODENAME"], process


def ranks(cluster: Cluster, number: str) -> list[tuple[str, psutil.Process]]:
    """The run's ranks, each with its node, by node."""
    found = [(node, p) for node, p in processes(cluster, number) if p.cmdline()[1:3] == ["-m", "r1mega"]]
    return sorted(found, key=lambda one: one[0])


def engines(cluster: Cluster, number: str) -> list[str]:
    """The nodes of the run's engines: processes that print into an engine's log."""
    found = []
    for node, process in processes(cluster, number):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{process.pid}/fd/1").readlink().name.startswith("engine."):
                found.append(node)
    return sorted(found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, folder: Path) -> Left:
    """What a run leaves that nothing happened to."""
    number = submit(cluster, folder, "undisturbed")
    until_rollout(folder, "undisturbed", 1)
    assert [node for node, _ in ranks(cluster, number)] == ["n1", "n2"]
    assert engines(cluster, number) == ["n1", "n2"]
    return finished(cluster, folder, "undisturbed", number, lives=1)


def test_two_nodes_train_to_the_end(undisturbed: Left) -> None:
    metrics, final = undisturbed
    assert len(metrics) == ROLLOUTS
    assert final


def test_a_run_that_is_told_to_save_and_then_loses_a_rank_ends_like_one_undisturbed(
    cluster: Cluster, folder: Path, undisturbed: Left
) -> None:
    number = submit(cluster, folder, "disturbed")
    until_rollout(folder, "disturbed", 1)
    cluster.call("scancel", "--batch", "--signal=USR1", number)  # as Slurm does before the time is over
    log = folder / "disturbed.log"
    until(lambda: "Going on from rollout-" in log.read_text(), 200, log.read_text)
    [rank] = [process for node, process in ranks(cluster, number) if node == "n2"]
    rank.kill()
    assert finished(cluster, folder, "disturbed", number, lives=3) == undisturbed
    assert "Exited with exit code 75" in log.read_text()


@pytest.mark.slow
def test_a_node_that_dies_while_it_trains_is_left_for_another(
    cluster: Cluster, folder: Path, undisturbed: Left
) -> None:
    number = submit(cluster, folder, "dies")
    until_rollout(folder, "dies", 2)
    cluster.kill_node("n2")
    assert finished(cluster, folder, "dies", number, lives=2) == undisturbed
    nodes = cluster.call("scontrol", "show", "hostnames", cluster.job(number)["NodeList"]).split()
    assert "n2" not in nodes


@pytest.mark.slow
def test_four_nodes_train_to_the_end_though_a_rank_is_killed(cluster: Cluster, folder: Path) -> None:
    number = submit(cluster, folder, "four", "rollout.replicas=4", size=FOUR)
    until_rollout(folder, "four", 1)
    assert [node for node, _ in ranks(cluster, number)] == ["n1", "n3", "n4", "n5"]
    assert engines(cluster, number) == ["n1", "n3", "n4", "n5"]
    ranks(cluster, number)[2][1].kill()
    finished(cluster, folder, "four", number, lives=2, nodes=4)


@pytest.mark.slow
def test_a_run_of_four_nodes_goes_on_on_one(cluster: Cluster, folder: Path) -> None:
    """Out of its budget of restarts a job ends with 75; the same run on other nodes takes its state up."""
    first = submit(cluster, folder, "moves", size=FOUR, R1MEGA_MAX_RESTARTS="0")
    until_rollout(folder, "moves", 2)
    cluster.call("scancel", "--batch", "--signal=USR1", first)
    cluster.wait_until_ended(200, first)
    assert cluster.job(first)["ExitCode"] == "75:0", (folder / "moves.log").read_text()
    (folder / "moves.log").rename(folder / "moves-first.log")
    one = ("--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=0")
    second = submit(cluster, folder, "moves", size=one)
    finished(cluster, folder, "moves", second, lives=1, nodes=1)
