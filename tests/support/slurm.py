"""A real Slurm of one's own: several nodes on this machine, below one folder, gone when the test is.

Needs Debian's packages slurm-wlm and munge, and no system service. The daemons run in the foreground as
children of the tests. Each node claims 64 processors, so that tests do not wait for each other's. A job
that is put back into the queue starts again after `REQUEUE_S`; on a usual cluster that is two minutes.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo")
HOME = Path(__file__).resolve().parents[2]
SCRIPTS = HOME / "slurm"
REQUEUE_S = 5

CONF = """
ClusterName=local
FirstJobId={first}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={base}/munge/socket,cred_expire={requeue_s}
CredType=cred/munge
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool/%n
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/slurmd.%n.pid
SlurmctldLogFile={base}/slurmctld.log
SlurmdLogFile={base}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MailProg=/bin/true
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_min_interval=200000,sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
EnforcePartLimits=ALL
KillWait=5
MinJobAge=600
SlurmdTimeout={lost_s}
HealthCheckProgram={base}/healthcheck.sh
HealthCheckInterval=2
HealthCheckNodeState=ANY
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=64 RealMemory=1000000\n"
# Touch bad/NODE, and the node says that it is ill.
HEALTH = """#!/bin/sh
export SLURM_CONF={base}/slurm.conf
[ ! -e {base}/bad/$SLURMD_NODENAME ] || scontrol update NodeName=$SLURMD_NODENAME State=drain Reason=ill
"""


def missing() -> list[str]:
    """The programs of Slurm that are not installed."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


if missing() and os.environ.get("R1MEGA_REQUIRE_SLURM"):
    raise RuntimeError(f"R1MEGA_REQUIRE_SLURM is set, and this machine has no {', '.join(missing())}")

needs_slurm = pytest.mark.skipif(
    bool(missing()), reason=f"NOT TESTED on Slurm: no {', '.join(missing())} (make test-slurm installs it)"
)


@dataclass
class Cluster:
    """Slurm's daemons and the environment in which its commands reach them."""

    base: Path
    environment: dict[str, str]
    nodes: list[str]
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def call(self, *command: str) -> str:
        """What a command of Slurm prints."""
        return subprocess.run(
            command,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        ).stdout

    def submit(self, folder: Path, *command: str, **environment: str) -> str:
        """The number of the job that `sbatch` makes of the command, submitted in `folder`."""
        ours = {"R1MEGA_HOME": str(HOME), "R1MEGA_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            ["sbatch", "--parsable", *command],
            cwd=folder,
            env=os.environ | self.environment | ours | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """What scontrol shows of a job: `JobState`, `ExitCode`, `Restarts`, `NodeList`, `ExcNodeList`, ..."""
        return _words(self.call("scontrol", "--oneliner", "show", "job", number))

    def states(self) -> dict[str, str]:
        """Of each job, by name, its state: `COMPLETED`, `FAILED`, `CANCELLED`, ..."""
        jobs = self.call("scontrol", "--oneliner", "show", "jobs").splitlines()
        return {_words(job)["JobName"]: _words(job)["JobState"] for job in jobs if "JobId=" in job}

    def wait_until_ended(self, timeout_s: float, *numbers: str) -> dict[str, str]:
        """The jobs' states when none of these (of all, where none is given) waits or runs any more."""
        chosen = [f"--jobs={','.join(numbers)}"] if numbers else []
        until(
            lambda: not self.call("squeue", "--noheader", *chosen).strip(),
            timeout_s,
            lambda: self.call("squeue"),
        )
        return self.states()

    def wait_for_node(self, name: str, state: str, timeout_s: float) -> None:
        """Wait until the node's state is, or has among its marks, this one."""
        until(
            lambda: state in self.call("sinfo", "--noheader", f"--nodes={name}", "--format=%T"),
            timeout_s,
            lambda: self.call("sinfo", "-N", "-l"),
        )

    def sicken(self, name: str) -> None:
        """The node's health check fails from now on, and drains it."""
        (self.base / "bad" / name).touch()

    def kill_node(self, name: str) -> None:
        """As if the node lost its power: its daemons and all that they started, at one moment."""
        tasks = [p for p in psutil.process_iter() if _is_of_node(p, self.environment["SLURM_CONF"], name)]
        parents = [process.parent() for process in tasks]
        steps = [parent for parent in parents if parent and parent.name() == "slurmstepd"]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            self.daemons[name].send_signal(number)
            for process in [*steps, *tasks]:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(number)


@contextlib.contextmanager
def cluster(base: Path, nodes: int = 1, lost_s: int = 60) -> Iterator[Cluster]:
    """So many idle nodes, n1, n2, ...; one that does not answer for `lost_s` is lost."""
    names = [f"n{i}" for i in range(1, nodes + 1)]
    for name in ("state", "munge", "bad", *(f"spool/{name}" for name in names)):
        (base / name).mkdir(parents=True)
    for folder in (base, base / "munge"):
        folder.chmod(0o755)
    conf = base / "slurm.conf"
    environment = {"SLURM_CONF": str(conf), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    _configure(base, conf, names, lost_s)
    made = Cluster(base, environment, names)
    try:
        made.daemons["munged"] = _daemon(_munged(base), environment)
        until((base / "munge" / "socket").exists, 30, (base / "munge" / "log").read_text)
        made.daemons["slurmctld"] = _daemon(["slurmctld", "-D", "-c", "-f", str(conf)], environment)
        for name in names:
            made.daemons[name] = _daemon(["slurmd", "-D", "-N", name, "-f", str(conf)], environment)
        for name in names:
            made.wait_for_node(name, "idle", 60)
        yield made
    finally:
        made.call("scancel", f"--user={getpass.getuser()}")
        for daemon in reversed(made.daemons.values()):
            daemon.terminate()
        for daemon in made.daemons.values():
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:  # it waits for a node that was killed
                daemon.kill()
                daemon.wait()


def until(
    done: Callable[[], bool], timeout_s: float, show: Callable[[], str] = lambda: "", every_s: float = 0.2
) -> None:
    """Wait until it is done; what `show` returns explains a failure."""
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {show()}"
        time.sleep(every_s)


def program(path: Path, text: str) -> Path:
    """A program in Python, to stand in for Python in jobs."""
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def _configure(base: Path, conf: Path, names: list[str], lost_s: int) -> None:
    host = socket.gethostname().split(".")[0]
    port, *ports = _free_ports(1 + len(names))
    # Jobs of clusters beside this one have other numbers, of which ports are made.
    text = CONF.format(
        first=random.randrange(1, 5_000) * 100,
        base=base,
        host=host,
        port=port,
        user=getpass.getuser(),
        requeue_s=REQUEUE_S,
        lost_s=lost_s,
    )
    nodes = [NODE.format(name=name, host=host, port=of) for name, of in zip(names, ports, strict=True)]
    conf.write_text("".join([*nodes, text]))
    health = base / "healthcheck.sh"
    health.write_text(HEALTH.format(base=base))
    health.chmod(0o755)


def _words(line: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in line.split() if "=" in word)


def _is_of_node(process: psutil.Process, conf: str, node: str) -> bool:
    """Whether a job's step has it on the node; `slurmstepd`, which started it, says nothing of this kind."""
    with contextlib.suppress(psutil.Error):
        environment = process.environ()
        return environment.get("SLURM_CONF") == conf and environment.get("SLURMD_NODENAME") == node
    return False


def _munged(base: Path) -> list[str]:
    key = base / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    places = {
        "key-file": "key",
        "socket": "socket",
        "pid-file": "pid",
        "log-file": "log",
        "seed-file": "seed",
    }
    options = [f"--{option}={base / 'munge' / name}" for option, name in places.items()]
    return ["munged", "--foreground", "--force", *options]


def _daemon(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, env=os.environ | environment, stdout=quiet, stderr=quiet)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
