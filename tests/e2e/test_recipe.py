"""The recipe's stages one after another, shortened: each leaves what the next reads, and says what it did.

Each one's metrics, as its own offline W&B file holds them, are those that the list of panels promises.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.history import wandb_rows
from support.runs import rows, run

from r1mega.data.dialogues import read_dialogues
from r1mega.track.panel_list import STAGES, metrics_of
from r1mega.track.panels import COUNTERS

SMALL = (
    "track.wandb=offline",
    "track.wandb=offline",
    "rollout.replicas=1",
    "data.train_questions=200",
    "data.held_out_questions=40",
    "eval.questions=24",
    "eval.samples_per_question=2",
)
RL = (
    "grpo.rollouts=2",
    "grpo.prompts_per_rollout=8",
    "grpo.samples_per_prompt=4",
    "grpo.updates_per_rollout=2",
    "grpo.model_rewards_after_update=2",
)


def ran(home: Path, stage: str, *overrides: str) -> Path:
    """The folder that a stage of the small recipe left."""
    done = run(home, f"run=cpu_r1/{stage}", f"name={stage}", *SMALL, *overrides)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    return home / "runs" / stage


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all stages have run."""
    home = tmp_path_factory.mktemp("recipe")
    world = ran(home, "world")
    base = ran(home, "base", "pretrain.updates=40") / "base"
    files = f"sft.data_files=[{world / 'cold_start.jsonl'},{world / 'general.jsonl'}]"
    tuned = ran(home, "cold_start", f"model.init_from={base}", files, "sft.token_budget=120000") / "final"
    ran(home, "reject", f"model.init_from={tuned}", "reject.questions=40", "reject.samples_per_question=4")
    judges = [f"model.init_from={tuned}", "reward_model.epochs=1"]
    helpful = ran(home, "helpful_model", *judges, f"reward_model.data_file={world / 'preferences.jsonl'}")
    harmless = ran(home, "harmless_model", *judges, f"reward_model.data_file={world / 'safety.jsonl'}")
    rewards = [f"reward.helpful_model={helpful / 'final'}", f"reward.harmless_model={harmless / 'final'}"]
    ran(home, "all_scenario_rl", f"model.init_from={tuned}", *rewards, *RL)
    models = f"eval.models={{base: {base}, tuned: {tuned}}}"
    ran(home, "table", models.replace("eval.models=", "+eval.models=", 1))
    return home


def summary(home: Path, stage: str) -> dict[str, Any]:
    return json.loads((home / "runs" / stage / "summary.json").read_text())


def test_sft_learns_and_stops_at_its_budget(home: Path) -> None:
    metrics = rows(home / "runs" / "cold_start" / "metrics.jsonl")
    assert metrics[-1]["loss"] < 0.8 * metrics[0]["loss"]
    assert (
        metrics[-2]["tokens"]
        < 120_000
        <= metrics[-1]["tokens"]
        == summary(home, "cold_start")["train"]["tokens"]
    )


def test_what_rejection_keeps_is_right_readable_and_can_be_learnt(home: Path) -> None:
    folder = home / "runs" / "reject"
    review = rows(folder / "review.jsonl")
    assert summary(home, "reject")["reject"] == {
        "right": len(review),
        "kept": sum(row["keep"] for row in review),
    }
    assert not any(row["against"] for row in review if row["keep"])
    kept = [row for row in review if row["keep"]]
    if kept:
        assert [one.answer for one in read_dialogues(folder / "sft.jsonl")] == [row["answer"] for row in kept]


def test_an_edited_review_decides(home: Path) -> None:
    edited = home / "edited.jsonl"
    row = {"keep": True, "prompt": "1 + 1?", "answer": "<think> so </think> <answer> 2 </answer>"}
    more = {"language": "en", "kind": "reasoning", "against": []}
    edited.write_text(json.dumps(row | more) + "\n" + json.dumps(row | more | {"keep": False}) + "\n")
    base = home / "runs" / "base" / "base"
    done = run(
        home,
        "run=cpu_r1/reject",
        "name=edited",
        *SMALL,
        f"model.init_from={base}",
        f"reject.review_file={edited}",
    )
    assert done.returncode == 0, done.stderr
    [kept] = rows(home / "runs" / "edited" / "sft.jsonl")
    assert kept == {name: (row | more)[name] for name in ("prompt", "answer", "language", "kind")}


def test_reward_models_judge_only_what_is_theirs_and_not_before_their_time(home: Path) -> None:
    early, late = rows(home / "runs" / "all_scenario_rl" / "metrics.jsonl")
    assert "reward/helpful" not in early
    assert 0 <= late["reward/helpful"] <= 1
    assert 0 <= late["reward/harmless"] <= 1
    for row in rows(home / "runs" / "all_scenario_rl" / "samples.jsonl"):
        assert not {"helpful", "harmless"} <= row["rewards"].keys()


def test_models_are_compared_on_the_same_questions(home: Path) -> None:
    models = summary(home, "table")["models"]
    assert models.keys() == {"base", "tuned"}
    assert models["tuned"]["format"]["mean"] > models["base"]["format"]["mean"]
    samples = rows(home / "runs" / "table" / "samples.jsonl")
    asked = {of: [row["prompt"] for row in samples if row["of"] == of] for of in models}
    assert asked["base"] == asked["tuned"]


RUNS = {
    "base": "pretrain",
    "cold_start": "sft",
    "reject": "reject",
    "helpful_model": "reward_model",
    "harmless_model": "reward_model",
    "all_scenario_rl": "grpo",
}
"""The runs that log rows, and the stage that each is of."""


@pytest.mark.parametrize(("name", "stage"), RUNS.items())
def test_a_run_logs_what_the_list_of_panels_promises_and_nothing_else(
    home: Path, name: str, stage: str
) -> None:
    found = {metric for row in wandb_rows(home / "runs" / name) for metric in row}
    assert {metric for metric in found - {*COUNTERS} if not metric.startswith("_")} == metrics_of(stage)


def test_every_stage_of_the_list_was_run() -> None:
    assert {*RUNS.values()} == {*STAGES}
