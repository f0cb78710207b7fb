"""What the job scripts do with an exit code, a signal, a bad node: each a job of a real Slurm.

Jobs run a program that ends as it is told instead of r1mega, so that they take seconds; real runs are in
test_training.py. All jobs are submitted at once, and looked at when they have ended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.slurm import SCRIPTS, Cluster, needs_slurm, program, until

pytestmark = needs_slurm
NODES = 4
LOST_S = 10

# `name=N preflight=A,B then=C,D`: N's first life ends its preflight as A and its ranks as C, its second as B
# and D; A of `0/n2` names n2 at the second look. Each task writes down where it ran.
ENDS = """
import os, signal, sys, time
told = dict(word.split("=") for word in sys.argv[3:])
life, task, node = (os.environ[n] for n in ("LIFE", "SLURM_PROCID", "SLURMD_NODENAME"))
nth = lambda words: (words.split(",") * 9)[:9][int(life)] if "," not in words else words.split(",")[int(life)]
looks = sys.argv[2] == "r1mega.preflight"
word = nth(told.get("preflight", "0") if looks else told["then"])
with open(f"{told['name']}.{'looks' if looks else 'ran'}", "a+") as out:
    out.seek(0)
    before = sum(line.startswith(f"{life} {task} ") for line in out)
    word = (word.split("/") * 2)[before] if "/" in word else word
    print(life, task, node, os.environ["MASTER_ADDR"], file=out)
while not looks and sum(line.startswith(f"{life} ") for line in open(f"{told['name']}.ran")) < 2:
    time.sleep(0.05)  # else the first to end ends the other before it has written
if word.startswith("n"):
    if task != "0":
        time.sleep(600)
    for bad in word.split("+"):
        print(f"{bad}: free disk 0.4 GiB in runs, needs 5.0 GiB", flush=True)
    sys.exit(1)
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda *_: sys.exit(75))
while word == "lost" and not os.path.exists("dead"):
    time.sleep(0.05)
if word == "lost":
    sys.exit(1)  # as ranks do that lose another
if word == "wait" or word == "fault" and task == "0":
    time.sleep(600)
if word == "kill" and task == "1":
    os.kill(os.getpid(), signal.SIGKILL)
if word == "kill":
    time.sleep(600)
sys.exit(3 if word == "fault" else int(word))
"""


@dataclass(frozen=True)
class Ended:
    """What is left of a job."""

    state: str
    code: str
    lives: list[list[str]]
    """Of each life that came past the preflight, the nodes of its tasks."""
    looks: int
    """How often the preflight ran."""
    avoids: str
    log: str


@dataclass(frozen=True)
class Bench:
    """Submits jobs of the program above."""

    cluster: Cluster
    folder: Path

    def submit(self, name: str, told: str, *options: str, **environment: str) -> str:
        python = program(self.folder / "python", ENDS)
        wrapper = self.folder / "life"
        wrapper.write_text(f'#!/bin/sh\nLIFE=${{SLURM_RESTART_COUNT:-0}} exec {python} "$@"\n')
        wrapper.chmod(0o755)
        size = ["--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0", f"--output={name}.log"]
        script = str(SCRIPTS / "r1_grpo.sh")
        command = [*size, f"--job-name={name}", *options, script, "run=none", f"name={name}", *told.split()]
        return self.cluster.submit(self.folder, *command, R1MEGA_PYTHON=str(wrapper), **environment)

    def began(self, name: str, tasks: int = 2) -> None:
        """Wait until so many tasks of the job have begun."""
        until(lambda: len(self._lines(name, "ran")) >= tasks, 90, lambda: self._log(name))

    def ended(self, number: str) -> Ended:
        job = self.cluster.job(number)
        name = job["JobName"]
        lives: dict[str, list[str]] = {}
        for life, _, node, address in map(str.split, self._lines(name, "ran")):
            assert address == "127.0.0.1"
            lives.setdefault(life, []).append(node)
        looks = {line.split()[0] for line in self._lines(name, "looks")}
        nodes = [sorted(lives[life]) for life in sorted(lives)]
        return Ended(job["JobState"], job["ExitCode"], nodes, len(looks), job["ExcNodeList"], self._log(name))

    def _lines(self, name: str, kind: str) -> list[str]:
        file = self.folder / f"{name}.{kind}"
        return file.read_text().splitlines() if file.exists() else []

    def _log(self, name: str) -> str:
        file = self.folder / f"{name}.log"
        return file.read_text() if file.exists() else ""


@pytest.fixture(scope="module")
def bench(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(cluster, tmp_path_factory.mktemp("jobs"))


def signalled(*command: str) -> Callable[[Bench, str, str], None]:
    def send(bench: Bench, name: str, number: str) -> None:
        bench.began(name)
        bench.cluster.call(*command, number)

    return send


USR1_TO_SCRIPT = signalled("scancel", "--batch", "--signal=USR1")
TERM_TO_SCRIPT = signalled("scancel", "--batch", "--signal=TERM")
CANCEL = signalled("scancel")
PAST = {"R1MEGA_MAX_RESTARTS": "1"}

# Name -> what the job is told, its environment, what happens to it; its state, exit code and number of lives.
JOBS = {
    "well": ("then=0", {}, None, "COMPLETED", "0:0", 1),
    "saved": ("then=75,75,0", {}, None, "COMPLETED", "0:0", 3),
    "killed": ("then=kill,0", {}, None, "COMPLETED", "0:0", 2),
    "fault": ("then=fault,0", {}, None, "FAILED", "3:0", 1),
    "bad-input": ("preflight=2,0 then=0,0", {}, None, "FAILED", "2:0", 0),
    "budget": ("then=75,75,0", PAST, None, "FAILED", "75:0", 2),
    "no-budget": ("then=75,0", {"R1MEGA_MAX_RESTARTS": "0"}, None, "FAILED", "75:0", 1),
    "told": ("then=wait,0", {}, USR1_TO_SCRIPT, "COMPLETED", "0:0", 2),
    "told-to-end": ("then=wait,0", {}, TERM_TO_SCRIPT, "COMPLETED", "0:0", 2),
    "cancelled": ("then=wait,0", {}, CANCEL, "CANCELLED", "", 1),
    "bad-nodes": ("preflight=n2,n3,0 then=0,0,0", {}, None, "COMPLETED", "0:0", 1),
    "all-bad": ("preflight=n1+n2,0 then=0,0", {}, None, "FAILED", "1:0", 0),
}


@pytest.fixture(scope="module")
def ended(bench: Bench) -> dict[str, Ended]:
    """All of them, submitted at once, and two more."""
    numbers = {name: bench.submit(name, job[0], **job[1]) for name, job in JOBS.items()}
    numbers["time"] = bench.submit("time", "then=wait,0", "--time=1", "--signal=B:USR1@50")
    numbers["gone-bad"] = bench.submit("gone-bad", "preflight=0/n2,0 then=1,0")
    for name, job in JOBS.items():
        if job[2] is not None:
            job[2](bench, name, numbers[name])
    bench.cluster.wait_until_ended(150, *numbers.values())
    return {name: bench.ended(number) for name, number in numbers.items()}


@pytest.mark.parametrize("name", JOBS)
def test_the_job_ends_as_its_codes_say(ended: dict[str, Ended], name: str) -> None:
    state, code, lives = JOBS[name][3:]
    found = ended[name]
    assert (found.state, len(found.lives)) == (state, lives), found.log
    assert code in ("", found.code)
    assert all(len(set(nodes)) == 2 for nodes in found.lives)  # which two is Slurm's affair


def test_the_warning_before_the_time_is_over_requeues(ended: dict[str, Ended]) -> None:
    assert (ended["time"].state, len(ended["time"].lives)) == ("COMPLETED", 2), ended["time"].log


def test_bad_nodes_are_named_and_avoided_for_good(ended: dict[str, Ended]) -> None:
    found = ended["bad-nodes"]
    assert (found.looks, found.avoids, found.lives) == (3, "n2,n3", [["n1", "n4"]]), found.log
    assert "\nn2: free disk 0.4 GiB in runs, needs 5.0 GiB\n" in found.log
    assert ended["all-bad"].avoids == "(null)"


def test_after_a_failure_the_nodes_are_looked_at_again(ended: dict[str, Ended]) -> None:
    found = ended["gone-bad"]
    assert (found.state, found.avoids, len(found.lives)) == ("COMPLETED", "n2", 2), found.log
    assert "n2" not in found.lives[1]


def test_why_a_job_is_not_started_again_is_said(ended: dict[str, Ended]) -> None:
    assert "exit code 3, not put back into the queue" in ended["fault"].log
    assert "started again 1 times, as often as R1MEGA_MAX_RESTARTS lets" in ended["budget"].log
    assert "Slurm ends this job itself" in ended["cancelled"].log


def test_a_drained_node_is_avoided(bench: Bench, ended: dict[str, Ended]) -> None:
    bench.cluster.sicken("n1")
    bench.cluster.wait_for_node("n1", "drained", 30)
    number = bench.submit("drained", "then=0")
    bench.cluster.wait_until_ended(60, number)
    [nodes] = bench.ended(number).lives
    assert "n1" not in nodes


def test_a_dead_node_is_left_for_another(bench: Bench, ended: dict[str, Ended]) -> None:
    """The last: of four nodes one was drained by the test before, and here another dies."""
    for node in ("n2", "n3", "n4"):
        bench.cluster.wait_for_node(node, "idle", 30)
    number = bench.submit("died", "then=wait,0")
    lost = bench.submit("lost", "then=lost,0")
    bench.began("died")
    bench.began("lost")
    bench.cluster.kill_node("n3")
    (bench.folder / "dead").touch()
    bench.cluster.wait_until_ended(150, number, lost)
    for found in (bench.ended(number), bench.ended(lost)):
        assert (found.state, found.lives) == ("COMPLETED", [["n2", "n3"], ["n2", "n4"]]), found.log
