"""A real Slurm of one's own: its daemons on this machine, below one folder, gone when the test is.

Needs Debian's packages slurm-wlm and munge, and no system service. The daemons run in the foreground as
children of the tests. Each node claims 64 processors, so that tests do not wait for each other's.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo")

CONF = """
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={base}/munge/socket
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
KillWait=2
MinJobAge=600
SlurmdTimeout=30
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={node_port} CPUs=64 RealMemory=1000000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """The programs of Slurm that are not installed."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


@contextlib.contextmanager
def cluster(base: Path) -> Iterator[dict[str, str]]:
    """One idle node; yields the environment in which Slurm's commands reach it."""
    for name in ("state", "spool/n1", "munge"):
        (base / name).mkdir(parents=True)
    for folder in (base, base / "munge"):
        folder.chmod(0o755)
    conf = base / "slurm.conf"
    port, node_port = _free_ports(2)
    host = socket.gethostname().split(".")[0]
    conf.write_text(CONF.format(base=base, host=host, port=port, node_port=node_port, user=getpass.getuser()))
    environment = {"SLURM_CONF": str(conf), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        daemons.append(_daemon(_munged(base), environment))
        _wait_for_socket(base)
        daemons.append(_daemon(["slurmctld", "-D", "-c", "-f", str(conf)], environment))
        daemons.append(_daemon(["slurmd", "-D", "-N", "n1", "-f", str(conf)], environment))
        _wait_until_idle(environment)
        yield environment
    finally:
        call(environment, "scancel", f"--user={getpass.getuser()}")
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(timeout=30)


def call(environment: dict[str, str], *command: str) -> str:
    """What a command of Slurm prints."""
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=30, check=False
    )
    return done.stdout


def states(environment: dict[str, str]) -> dict[str, str]:
    """Of each job, by name, its state, as scontrol has it: `COMPLETED`, `FAILED`, `CANCELLED`, ..."""
    jobs = call(environment, "scontrol", "--oneliner", "show", "jobs").splitlines()
    words = [
        dict(word.split("=", 1) for word in job.split() if "=" in word) for job in jobs if "JobId=" in job
    ]
    return {job["JobName"]: job["JobState"] for job in words}


def wait_until_ended(environment: dict[str, str], timeout_s: float) -> dict[str, str]:
    """The jobs' states when none waits or runs any more."""
    deadline = time.monotonic() + timeout_s
    while call(environment, "squeue", "--noheader").strip():
        assert time.monotonic() < deadline, call(environment, "squeue")
        time.sleep(0.2)
    return states(environment)


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


def _wait_for_socket(base: Path) -> None:
    deadline = time.monotonic() + 10
    while not (base / "munge" / "socket").exists():
        assert time.monotonic() < deadline, (base / "munge" / "log").read_text()
        time.sleep(0.05)


def _wait_until_idle(environment: dict[str, str]) -> None:
    deadline = time.monotonic() + 30
    while call(environment, "sinfo", "--noheader", "--states=idle", "--format=%D").strip() != "1":
        assert time.monotonic() < deadline, call(environment, "sinfo", "-N", "-l")
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
