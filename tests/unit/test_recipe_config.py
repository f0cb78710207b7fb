"""The paper's settings as configuration: every number of the recipe, in the run that it belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest

from r1mega.__main__ import configurations
from r1mega.compose import compose
from r1mega.config import Config, RewardKind, Stage

RUNS = configurations() / "run"
NAMES = sorted(
    str(path.relative_to(RUNS).with_suffix("")) for path in RUNS.rglob("*.yaml") if "common" not in str(path)
)


def composed(name: str, *overrides: str) -> Config:
    return compose(configurations(), [f"run={name}", *overrides])


@pytest.mark.parametrize("name", NAMES)
def test_every_run_composes_and_says_what_it_is(name: str) -> None:
    config = composed(name)
    assert config.name
    text = (RUNS / f"{name}.yaml").read_text().splitlines()
    assert text[0] == "# @package _global_"
    assert text[1].startswith("# ")


def updates(config: Config) -> int:
    return config.grpo.rollouts * config.grpo.updates_per_rollout


RL = ("r1_zero", "r1_reasoning_rl", "r1_all_scenario_rl")


@pytest.mark.parametrize("name", RL)
def test_rl_is_the_papers(name: str) -> None:
    config = composed(name)
    grpo = config.grpo
    assert config.stage is Stage.grpo
    assert (grpo.optimizer.lr, grpo.kl_coefficient) == (3e-6, 0.001)
    assert (grpo.prompts_per_rollout, grpo.samples_per_prompt) == (512, 16)
    assert 512 * 16 // grpo.updates_per_rollout == 512
    assert grpo.reference_refresh_updates == 400
    assert grpo.clip_eps == (0.2 if name == "r1_zero" else 10)
    assert config.rollout.temperature == (0.7 if name == "r1_all_scenario_rl" else 1.0)
    assert config.rollout.max_answer_tokens == 32_768


def test_zero_is_10400_updates_with_longer_answers_from_8200() -> None:
    config = composed("r1_zero")
    assert updates(config) == 10_400
    assert (config.grpo.longer_after_update, config.grpo.longer_answer_tokens) == (8_200, 65_536)
    assert config.reward.weights == {"reasoning": {"accuracy": 1.0, "format": 1.0}}
    assert config.data.template == "r1_zero"
    assert composed("r1_reasoning_rl").grpo.longer_after_update is None


def test_preferences_count_in_the_last_400_updates_only() -> None:
    config = composed("r1_all_scenario_rl")
    assert 1_680 < updates(config) <= 1_700
    assert config.grpo.model_rewards_after_update == 1_300
    assert config.reward.weights["general"]["helpful"] == 1.0
    assert config.reward.weights["safety"]["harmless"] == 1.0
    assert "helpful" not in config.reward.weights["reasoning"]


def test_language_is_added_to_accuracy_after_the_cold_start_alone() -> None:
    assert "language" not in composed("r1_zero").reward.weights["reasoning"]
    assert composed("r1_reasoning_rl").reward.weights["reasoning"] == {
        "accuracy": 1.0,
        "format": 1.0,
        "language": 1.0,
    }


def test_sft_is_two_epochs_of_64_down_to_a_tenth() -> None:
    config = composed("r1_rejection_sft")
    assert (config.sft.epochs, config.sft.samples_per_update) == (2, 64)
    assert (config.sft.optimizer.lr, config.sft.optimizer.min_lr_ratio) == (5e-6, 0.1)
    assert config.rollout.max_context_tokens == 32_768
    assert config.model.init_from == composed("r1_cold_start").model.init_from  # the base again


@pytest.mark.parametrize(
    ("name", "lr"),
    [
        ("qwen2_5_1_5b", 1e-4),
        ("qwen2_5_7b", 8e-5),
        ("qwen2_5_14b", 7e-5),
        ("qwen2_5_32b", 6e-5),
        ("llama_8b", 5e-5),
        ("llama_70b", 2e-5),
    ],
)
def test_each_student_has_its_learning_rate(name: str, lr: float) -> None:
    config = composed(f"r1_distill_{name}")
    assert config.sft.optimizer.lr == lr
    assert config.sft.data_files[0] == "runs/r1_reject/sft.jsonl"


@pytest.mark.parametrize("kind", RewardKind)
def test_reward_models_are_the_papers(kind: RewardKind) -> None:
    name = {RewardKind.helpfulness: "r1_helpful_model", RewardKind.harmlessness: "r1_harmless_model"}[kind]
    model = composed(name).reward_model
    assert (model.kind, model.samples_per_update, model.epochs) == (kind, 256, 1)
    assert (model.optimizer.lr, model.least_score_gap) == (6e-6, 1.0)
    assert composed(name).rollout.max_context_tokens == 8_192


def test_evaluation_samples_as_the_paper_does() -> None:
    plan = composed("r1_zero").eval
    assert (plan.temperature, plan.top_p, plan.samples_per_question) == (0.6, 0.95, 64)


def test_the_runs_feed_each_other() -> None:
    made = {f"runs/{composed(name).name}" for name in NAMES if name.startswith("r1_")}
    for name in (name for name in NAMES if name.startswith("r1_")):
        config = composed(name)
        paths = [config.model.init_from, config.reward.helpful_model, *config.sft.data_files]
        for path in (path for path in paths if path and path.startswith("runs/")):
            assert str(Path(path).parent) in made
