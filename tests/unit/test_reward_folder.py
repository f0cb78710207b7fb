"""Fields of models with a scalar head, and what is said of a folder that is no reward model's."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from support.models import random_dense_fields, random_fields
from support.ranks import plan_of

from r1mega.config import RewardKind
from r1mega.model.family import family_faults, family_of, with_scalar_head
from r1mega.model.scalar import is_scalar
from r1mega.preference.text import Reads
from r1mega.reward_folder import CARD, Card, read_card, reward_model_faults
from r1mega.weights.table import Served, all_hf_names

KINDS = {
    "deepseek_v3": "DeepseekV3ForSequenceClassification",
    "llama": "LlamaForSequenceClassification",
    "qwen2": "Qwen2ForSequenceClassification",
    "qwen3": "Qwen3ForSequenceClassification",
    "qwen3_moe": "Qwen3MoeForSequenceClassification",
}


def causal(kind: str) -> dict[str, Any]:
    draw = random.Random(kind)
    if kind == "deepseek_v3":
        return random_fields(draw, num_nextn_predict_layers=1)
    return random_dense_fields(draw, kind, tie_word_embeddings=True)


@pytest.mark.parametrize(("kind", "architecture"), KINDS.items())
def test_a_scalar_head_replaces_the_vocabulary_and_the_drafts(kind: str, architecture: str) -> None:
    hf = causal(kind)
    scalar = with_scalar_head(hf)
    assert not is_scalar(hf)
    assert is_scalar(scalar)
    assert family_faults(scalar) == [] == family_of(scalar).faults(scalar)
    assert with_scalar_head(scalar) == scalar
    exported = family_of(scalar).checkpoint_config(scalar, "float32")
    assert (exported["architectures"], exported["num_labels"]) == ([architecture], 1)
    assert family_of(exported).checkpoint_config(exported, "float32") == exported
    # transformers writes the architecture, and may be read without the model's type.
    assert family_of({"architectures": [architecture]}) is family_of(hf)
    tables = [family_of(fields).weight_table(fields) for fields in (hf, scalar)]
    causal_names, scalar_names = (all_hf_names(table) for table in tables)
    assert scalar_names - causal_names == {"score.weight"}
    drafts = {name for name in causal_names if f"layers.{hf['num_hidden_layers']}." in name}
    assert bool(drafts) == (kind == "deepseek_v3")
    assert causal_names - scalar_names - drafts == (set() if kind != "deepseek_v3" else {"lm_head.weight"})
    [head] = [row for row in tables[1] if row.hf == ("score.weight",)]
    assert (head.served, head.split, head.shapes) == (Served.trainer, None, ((1, hf["hidden_size"]),))
    assert family_of(scalar).copies(scalar) == {}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"num_labels": 2}, "num_labels: was 2"),
        ({"num_labels": None, "id2label": {"0": "a", "1": "b", "2": "c"}}, "num_labels: was 3"),
        ({"num_labels": None}, "num_labels: was 2"),
        ({"num_nextn_predict_layers": 1}, "num_nextn_predict_layers: was 1; must be 0"),
    ],
)
def test_what_has_no_single_score_is_refused(change: dict[str, Any], fault: str) -> None:
    scalar = with_scalar_head(causal("deepseek_v3")) | change
    scalar = {name: value for name, value in scalar.items() if value is not None}
    [said] = family_faults(scalar)
    assert fault in said


def reward_folder(folder: Path, kind: str = "helpfulness", **fields: Any) -> Path:
    folder.mkdir()
    hf = with_scalar_head(random_dense_fields(random.Random(0), "qwen2", num_key_value_heads=2))
    (folder / "config.json").write_text(json.dumps(family_of(hf).checkpoint_config(hf, "float32") | fields))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text('{"words": 1}')
    Card(RewardKind(kind), "short").write(folder / CARD)
    return folder


def faults_of(folder: Path, **named: Any) -> list[str]:
    return reward_model_faults("reward.helpful_model", folder, **({"plan": plan_of()} | named))


def test_a_reward_models_folder_is_taken(tmp_path: Path) -> None:
    folder = reward_folder(tmp_path / "final")
    (tmp_path / "tokenizer.json").write_text('{\n "words":1}')
    assert faults_of(folder, kind=RewardKind.helpfulness, tokenizer=tmp_path, plan=plan_of(tp=2)) == []
    assert read_card(folder) == Card(RewardKind.helpfulness, "short")
    assert [Card(kind, "short").reads for kind in RewardKind] == [Reads.summary, Reads.whole]


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    folder = reward_folder(tmp_path / "final", kind="harmlessness")
    (folder / CARD).write_text('{"kind": "harmlessness", "template": "shrot"}')
    (tmp_path / "tokenizer.json").write_text('{"words": 2}')
    said = faults_of(folder, kind=RewardKind.helpfulness, tokenizer=tmp_path, plan=plan_of(tp=8))
    assert all(fault.startswith(f"reward.helpful_model: was {folder}; ") for fault in said)
    for words in ("tp = 8", "shrot", "it judges harmlessness; it must judge helpfulness", "its tokenizer is"):
        assert any(words in fault for fault in said), words


@pytest.mark.parametrize("gone", ["config.json", "tokenizer.json", CARD])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, gone: str) -> None:
    folder = reward_folder(tmp_path / "final")
    (folder / gone).unlink()
    [said] = faults_of(folder)
    assert f"it has no {gone}" in said


@pytest.mark.parametrize(("name", "content"), [(CARD, "{"), (CARD, "[]"), (CARD, "{}"), ("config.json", "3")])
def test_a_file_that_is_not_what_it_should_be_is_named(tmp_path: Path, name: str, content: str) -> None:
    folder = reward_folder(tmp_path / "final")
    (folder / name).write_text(content)
    [said] = faults_of(folder)
    assert name in said


def test_a_causal_model_is_no_reward_model(tmp_path: Path) -> None:
    folder = reward_folder(tmp_path / "final", architectures=["Qwen2ForCausalLM"])
    [said] = faults_of(folder)
    assert "of no model with a scalar head" in said
