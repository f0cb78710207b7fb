"""A pipeline as jobs of a real Slurm: in order, a failure cancels what waits, what is done is not run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support.pipelines import BASE, CHAIN, composer, whole, why
from support.runs import run
from support.slurm import Cluster, needs_slurm, program

from r1mega.__main__ import configurations
from r1mega.config import BadRun, Config
from r1mega.pipeline import record, slurm
from r1mega.pipeline.standing import standings
from r1mega.stages import pipeline

# Stands in for Python in a job: leaves what the stage would, and writes down that it ran, and where.
STAGE = """
import os, sys
if sys.argv[1:3] == ["-m", "r1mega.preflight"]:
    sys.exit(0)
sys.path[:0] = {path!r}
assert sys.argv[1:3] == ["-m", "r1mega"]
from support.pipelines import Ranks, composer
config = composer(sys.argv[3:])
if os.environ["SLURM_PROCID"] == "0":
    tasks, address = os.environ["SLURM_STEP_NUM_TASKS"], os.environ["MASTER_ADDR"]
    with open("ran", "a") as out:
        print(config.name, tasks, address, file=out)
    code = 7 if os.path.exists(f"{{config.name}}.fails") else Ranks()(sys.argv[3:], 0)
    sys.exit(code)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def slurm_here(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Slurm's commands reach the cluster, ours and those that we start."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    return cluster


@pytest.fixture
def stand_in(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run the stand-in."""
    monkeypatch.setattr(sys, "executable", str(program(home / "python", STAGE.format(path=sys.path))))


def submit(config: Config) -> None:
    nodes, forced = pipeline.plan(config, [], composer)
    record.open_folder(config)
    script = configurations().parent / "slurm" / "r1_stage.sh"
    assert slurm.submit(config, nodes, standings(nodes, forced), script) == 0


def ran(home: Path) -> list[list[str]]:
    return [line.split() for line in (home / "ran").read_text().splitlines()]


@needs_slurm
def test_stages_run_in_order_each_with_its_ranks(
    home: Path, slurm_here: Cluster, stand_in: None, capsys: pytest.CaptureFixture[str]
) -> None:
    config = whole(CHAIN)
    config.name = "chain"
    submit(config)
    said = capsys.readouterr().out.splitlines()
    first = said[0].split()[2].rstrip(";")
    assert said[0] == f"base: job {first}; not run yet"
    assert said[1].startswith("zero: job ")
    assert said[1].endswith(f" after {first}; not run yet")
    ended = slurm_here.wait_until_ended(120)
    assert [ended[f"chain-{name}"] for name in CHAIN] == ["COMPLETED"] * 3
    assert ran(home) == [[name, "2", "127.0.0.1"] for name in CHAIN]
    assert {runs for runs, _ in why(config).values()} == {False}
    assert not list(home.glob("slurm-*"))
    submit(config)
    assert capsys.readouterr().out.splitlines()[:3] == [f"{name}: done before" for name in CHAIN]


@needs_slurm
def test_a_stage_that_fails_cancels_those_that_wait_for_it(
    home: Path, slurm_here: Cluster, stand_in: None
) -> None:
    (home / "base.fails").touch()
    config = whole(CHAIN)
    config.name = "failing"
    submit(config)
    ended = slurm_here.wait_until_ended(120)
    assert [ended[f"failing-{name}"] for name in CHAIN] == ["FAILED", "CANCELLED", "CANCELLED"]
    assert [words[0] for words in ran(home)] == ["base"]


@needs_slurm
def test_a_real_stage_of_two_ranks_joins_sruns(home: Path, slurm_here: Cluster) -> None:
    (home / "own" / "run").mkdir(parents=True)
    (home / "own" / "run" / "tiny.yaml").write_text(
        "# @package _global_\nstage: pipeline\nname: tiny\npipeline: {stages: {base: {run: cpu_pretrain}}}\n"
    )
    short = ["pretrain.updates=2", "pretrain.samples_per_update=8", "data.train_questions=50"]
    told = ["run=tiny", f"hydra.searchpath=[file://{home / 'own'}]", *short]
    done = run(home, *told, "pipeline.submit=true")
    assert (done.returncode, done.stderr) == (0, "")
    ended = slurm_here.wait_until_ended(240)
    [log] = (home / "runs" / "tiny").glob("slurm-base-*.log")
    assert ended["tiny-base"] == "COMPLETED", log.read_text()
    done = run(home, *told)
    assert (done.returncode, done.stderr) == (0, "")
    assert "[1/1] base (pretrain): done before" in done.stdout
    whole_run = json.loads((home / "runs" / "tiny" / "summary.json").read_text())
    assert whole_run["finished"]


def test_without_slurm_it_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home))
    with pytest.raises(BadRun, match="there is no sbatch here"):
        submit(whole({"base": BASE}))
