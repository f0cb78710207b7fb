"""Two real stages, a base and its evaluation, by one command: killed, gone on with, and not run again."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from support.command import command
from support.runs import run, start

RUN = """# @package _global_
stage: pipeline
name: tiny
pipeline:
  overrides:
    - parallel=single
    - data.train_questions=100
    - data.held_out_questions=16
    - rollout.max_answer_tokens=16
    - eval.questions=4
    - eval.samples_per_question=2
    - handover.probe_samples=2
  stages:
    evaluation: {run: cpu_evaluate, reads: {model.init_from: base/model}}
    base: {run: cpu_pretrain, overrides: [pretrain.updates=2, pretrain.samples_per_update=8]}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    (home / "own" / "run").mkdir(parents=True)
    (home / "own" / "run" / "tiny.yaml").write_text(RUN)
    return home


def told(home: Path, *more: str) -> list[str]:
    return ["run=tiny", f"hydra.searchpath=[file://{home / 'own'}]", *more]


def test_a_plan_is_shown_without_torch_and_leaves_nothing(home: Path) -> None:
    done, imported = command(*told(home, "pipeline.plan_only=true"), folder=home)
    assert (done.returncode, done.stderr, imported) == (0, "", [])
    assert done.stdout.splitlines() == [
        "tiny: 2 stages in runs/tiny",
        "  1  base (pretrain): would run: not run yet",
        "       nothing -> base/model",
        "  2  evaluation (evaluate): would run: not run yet",
        "       base/model -> figures",
    ]
    assert not (home / "runs").exists()


def test_faults_of_all_stages_come_before_any_is_run(home: Path) -> None:
    done, imported = command(*told(home, "eval.questions=0", "pipeline.from=nowhere"), folder=home)
    assert (done.returncode, done.stdout, imported) == (2, "", [])
    for stage in ("base", "evaluation"):
        assert f"{stage}: eval.questions: was 0; must be above 0" in done.stderr


def test_under_an_outer_launcher_it_is_refused(home: Path) -> None:
    done, _ = command(*told(home), folder=home, RANK="0", WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    assert done.returncode == 2
    assert "stage: was pipeline, which starts its stages' ranks itself" in done.stderr


def test_killed_after_its_first_stage_it_goes_on_with_the_second(home: Path) -> None:
    first = home / "runs" / "tiny" / "base" / "summary.json"
    process = start(home, *told(home))
    try:
        deadline = time.monotonic() + 200
        while not first.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    base = first.read_text()
    done = run(home, *told(home))
    assert done.returncode == 0, done.stderr
    assert "[1/2] base (pretrain): done before" in done.stdout
    assert "[2/2] evaluation (evaluate): " in done.stdout
    assert first.read_text() == base
    assert "Traceback" not in done.stdout + done.stderr


def test_the_whole_runs_summary_has_every_stages_figures(home: Path) -> None:
    folder = home / "runs" / "tiny"
    whole = json.loads((folder / "summary.json").read_text())
    assert (whole["name"], whole["stage"], whole["finished"]) == ("tiny", "pipeline", True)
    assert list(whole["stages"]) == ["base", "evaluation"]
    assert whole["stages"]["evaluation"]["eval"] == {"questions": 4, "samples_per_question": 2}
    made = json.loads((folder / "evaluation" / "made_from.json").read_text())
    assert made["eval.questions"] == 4
    assert made["model.init_from"].startswith("sha256 ")
    assert whole["stages"]["evaluation"]["key"] == whole["stages"]["evaluation"]["config_hash"]


def test_done_it_is_not_run_again_and_says_what_would_be(home: Path) -> None:
    done, imported = command(*told(home), folder=home)
    assert (done.returncode, done.stderr, imported) == (0, "", [])
    assert "All 2 stages are done" in done.stdout
    done, _ = command(*told(home, "eval.questions=5", "pipeline.plan_only=true"), folder=home)
    assert "evaluation (evaluate): would run: eval.questions was 4, is now 5" in done.stdout
    done, _ = command(*told(home, "pipeline.from=base", "pipeline.plan_only=true"), folder=home)
    assert done.stdout.count("would run: asked for") == 2
