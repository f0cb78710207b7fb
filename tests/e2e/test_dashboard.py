"""Each stage's metrics, as its own offline W&B file holds them, are those that the list of panels promises.

Real runs of the small recipe, cut down to an update or two: what they learn does not matter here.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support.history import wandb_rows
from support.runs import run

from r1mega.track.panel_list import STAGES, metrics_of
from r1mega.track.panels import COUNTERS

SHORT = (
    "track.wandb=offline",
    "parallel=single",
    "rollout.replicas=1",
    "rollout.max_answer_tokens=24",
    "data.train_questions=200",
    "data.held_out_questions=40",
    "eval.questions=24",
    "eval.samples_per_question=1",
    "pretrain.updates=2",
    "sft.epochs=1",
    "reject.questions=8",
    "reward_model.epochs=1",
    "grpo.rollouts=1",
    "grpo.prompts_per_rollout=16",
    "grpo.samples_per_prompt=2",
    "grpo.updates_per_rollout=1",
    "grpo.model_rewards_after_update=0",
)
WORLD = ("cold_start=128", "general=8", "preferences=100", "safety=100")
RUNS = {
    "base": "pretrain",
    "cold_start": "sft",
    "reject": "reject",
    "helpful_model": "reward_model",
    "harmless_model": "reward_model",
    "all_scenario_rl": "grpo",
}
"""The runs, and the stage that each is of."""


def ran(home: Path, name: str, *overrides: str) -> Path:
    """The folder that a run of the small recipe left."""
    done = run(home, f"run=cpu_r1/{name}", f"name={name}", *SHORT, *overrides)
    assert done.returncode == 0, done.stderr
    return home / "runs" / name


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """By run, every figure in its W&B file, without W&B's own and the counters."""
    home = tmp_path_factory.mktemp("dashboard")
    world = ran(home, "world", *(f"world.rows.{rows}" for rows in WORLD))
    ran(home, "base")
    base = f"model.init_from={home / 'runs' / 'base' / 'base'}"
    ran(home, "cold_start", base, f"sft.data_files=[{world / 'cold_start.jsonl'}]")
    ran(home, "reject", base)
    for name, file in {"helpful": "preferences", "harmless": "safety"}.items():
        ran(home, f"{name}_model", base, f"reward_model.data_file={world / file}.jsonl")
    models = [
        f"reward.{name}_model={home / 'runs' / f'{name}_model' / 'final'}" for name in ("helpful", "harmless")
    ]
    ran(home, "all_scenario_rl", base, *models)
    return {name: figures(home / "runs" / name) for name in RUNS}


def figures(folder: Path) -> set[str]:
    found = {metric for row in wandb_rows(folder) for metric in row}
    return {metric for metric in found - {*COUNTERS} if not metric.startswith("_")}


@pytest.mark.parametrize(("name", "stage"), RUNS.items())
def test_a_run_logs_what_the_list_promises_and_nothing_else(
    logged: dict[str, set[str]], name: str, stage: str
) -> None:
    assert logged[name] == metrics_of(stage)


def test_no_panel_is_of_a_stage_that_was_not_run() -> None:
    assert set(RUNS.values()) == set(STAGES)
