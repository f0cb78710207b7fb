"""W&B offline: what its own file holds, where it lies, and what it must not write."""

import json
import os
import subprocess
import sys

import pytest

from r1mega.track.wandb_run import WandbRun

SCRIPT = """
import sys
from pathlib import Path
from r1mega.track.wandb_run import WandbRun
config = {"grpo": {"rollouts": 2}}
run = WandbRun(Path(sys.argv[1]), mode=sys.argv[2], project="p", run_id="zero-0", config=config)
for rollout in map(int, sys.argv[3:]):
    run.log({"rollout": rollout, "critic/score/mean": rollout / 2, "made/up": None})
run.finish({"eval": {"pass_at_1": {"base": 0.4}}})
"""


def record(folder, mode, *rollouts):
    """Run W&B as a training run does, in a process and a home of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "XDG"))}
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), mode, *map(str, rollouts)],
        env={
            **environment,
            "HOME": str(home),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


def inspect(file):
    """Records of a .wandb file, read by W&B's own reader."""
    output = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)],
        env={**os.environ, "WANDB_ERROR_REPORTING": "false"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    return [json.loads(line) for line in output.splitlines()]


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wandb") / "run"
    folder.mkdir()
    outputs = [record(folder, "offline", 1, 2), record(folder, "offline", 3)]
    return folder, outputs


def test_rows_config_and_summary_are_in_the_file(resumed):
    folder, _ = resumed
    files = sorted(folder.glob("wandb/offline-run-*/run-zero-0.wandb"))
    assert len(files) == 2
    first, second = (inspect(file) for file in files)
    rows = [r["history"]["item"] for r in first + second if r["type"] == "history"]
    assert [(row["_step"], row["rollout"], row["critic/score/mean"]) for row in rows] == [
        (1, 1, 0.5),
        (2, 2, 1.0),
        (3, 3, 1.5),
    ]
    opened = next(r["run"] for r in first if r["type"] == "run")
    assert opened["run_id"] == "zero-0"
    assert opened["config"]["update"]["grpo"] == {"rollouts": 2}
    updates = [r["summary"].get("update", {}) for r in first if r["type"] == "summary"]
    assert {"eval": {"pass_at_1": {"base": 0.4}}} in updates


def test_it_is_quiet_and_stays_in_the_run_folder(resumed):
    folder, outputs = resumed
    assert all(output.stdout == output.stderr == "" for output in outputs)
    assert [path.name for path in folder.iterdir()] == ["wandb"]
    written = [path for path in (folder.parent / "home").rglob("*") if path.is_file()]
    assert written == []


def test_nothing_names_the_machine(resumed):
    folder, _ = resumed
    file = next(folder.glob("wandb/offline-run-*/run-zero-0.wandb"))
    assert next(r["run"] for r in inspect(file) if r["type"] == "run").get("host") == "local"
    assert not list(folder.rglob("wandb-metadata.json"))


def test_disabled_writes_nothing(tmp_path, monkeypatch):
    for name in ("ERROR_REPORTING", "SILENT", "CACHE_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", "")  # so that what the run sets is undone afterwards
    folder = tmp_path / "run"
    folder.mkdir()
    run = WandbRun(folder, mode="disabled", project="p", run_id="zero-0", config={})
    run.log({"rollout": 1, "x": 1.0})
    run.log({"update": 2, "x": 1.0}, counter="update")
    run.finish({})
    assert not [path for path in folder.rglob("*") if path.is_file()]
