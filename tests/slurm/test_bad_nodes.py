"""The preflight, for real: the nodes that it names are avoided from then on."""

from __future__ import annotations

from pathlib import Path

from support.slurm import SCRIPTS, Cluster, needs_slurm, program

pytestmark = needs_slurm
NODES = 5


def test_nodes_that_the_preflight_names_are_avoided(cluster: Cluster, tmp_path: Path) -> None:
    """n2's disk is full and n3 never answers; the run finds both out at once and starts on the others."""
    python = program(
        tmp_path / "python",
        """
import os, sys, time
node, looks = os.environ["SLURMD_NODENAME"], sys.argv[2] == "r1mega.preflight"
if not looks:
    sys.exit(0)
if node == "n3":
    time.sleep(600)
if node == "n2":
    os.environ["R1MEGA_FREE_GIB"] = "1000000"
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
""",
    )
    size = ("--nodes=3", "--ntasks-per-node=1", "--gpus-per-node=0")
    script = str(SCRIPTS / "r1_grpo.sh")
    told = {"R1MEGA_PYTHON": str(python), "R1MEGA_PREFLIGHT_S": "30", "R1MEGA_FREE_GIB": "0.1"}
    number = cluster.submit(tmp_path, *size, "--output=log", script, "run=cpu_zero", **told)
    cluster.wait_until_ended(200, number)
    job, log = cluster.job(number), (tmp_path / "log").read_text()
    assert (job["JobState"], job["NodeList"]) == ("COMPLETED", "n[1,4-5]"), log
    assert job["ExcNodeList"] == "n2,n3"
    assert "\nn3: no answer within 30 s (R1MEGA_PREFLIGHT_S)\n" in log
    assert "\nn2: free disk " in log
