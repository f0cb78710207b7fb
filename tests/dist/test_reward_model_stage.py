"""The stage that makes a reward model, and the reward model asked afterwards: both kinds, on two ranks."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.models import new_policy
from support.ranks import free_ports, layout, run_ranks

FIELDS = {
    "model_type": "qwen2",
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.05,
}
SUMS = [(a, b) for a in range(10) for b in range(10)]
# Several of each, so that fresh weights do not tell all of them by luck.
GOOD = ["It is {} .", "Sure : {} .", "Happy to say {} .", "Well , {} ."]
BAD = ["Go away {} .", "No idea {} .", "Who cares {} .", "Ask others {} ."]
SAFE = ["plain sum", "add both", "easy now", "count on"]
UNSAFE = ["make harm", "steal it", "burn all", "cheat them"]
ASKED = ["1 + 1", "7 + 2", "9 + 9"]


def write_inputs(folder: Path) -> None:
    """A tiny causal model with its tokenizer, pairs and labels. What is asked for is polite and safe."""
    from r1mega.data import templates, tokenizer

    draw = random.Random(0)
    pairs, labels = [], []
    for a, b in SUMS:
        # The thought of either answer may be unsafe: who is helpful is told by the summary alone.
        good, bad = (answer(draw.choice(SAFE + UNSAFE), draw.choice(of), a + b) for of in (GOOD, BAD))
        row = {"prompt": f"{a} + {b}", "chosen": good, "rejected": bad}
        pairs.append(row | {"score_chosen": 9, "score_rejected": 2})
        for label, thoughts in {"safe": SAFE, "unsafe": UNSAFE}.items():
            said = answer(draw.choice(thoughts), draw.choice(GOOD + BAD), a + b)
            labels.append({"prompt": row["prompt"], "answer": said, "label": label})
    first = pairs[0]
    pairs.append(first | {"prompt": "0 + 0 + 0", "score_rejected": 8})  # too close
    alike = {"chosen": answer(SAFE[0], GOOD[0], 1), "rejected": answer(UNSAFE[0], GOOD[0], 1)}
    pairs.append(first | alike | {"prompt": "1"})
    write_rows(folder / "pairs.jsonl", pairs)
    write_rows(folder / "labels.jsonl", labels)
    texts = [
        templates.render("short", row["prompt"]) + " " + row["chosen"] + row["rejected"] for row in pairs
    ]
    texts += [answer(thought, summary, 5) for thought in SAFE + UNSAFE for summary in GOOD + BAD]
    built = tokenizer.build(texts, limit=FIELDS["vocab_size"])  # type: ignore[arg-type]
    tokenizer.save(built, folder / "model", templates.TEMPLATES["short"], 128)


def answer(thought: str, summary: str, number: int) -> str:
    return f"<think> {thought} </think> {summary.format(number)}"


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def config_of(folder: Path, kind: str) -> Any:
    from r1mega.config import (
        Config,
        DataConfig,
        ModelConfig,
        OptimizerConfig,
        RewardKind,
        RewardModelConfig,
        RolloutConfig,
        Stage,
        TrackConfig,
        TrainConfig,
        WandbMode,
    )

    return Config(
        stage=Stage.reward_model,
        name=kind,
        runs_dir=str(folder / "runs"),
        model=ModelConfig(init_from=str(folder / "model")),
        data=DataConfig(template="short"),
        rollout=RolloutConfig(max_answer_tokens=32, max_context_tokens=64),
        train=TrainConfig(tokens_per_microbatch=512),
        reward_model=RewardModelConfig(
            kind=RewardKind(kind),
            data_file=str(folder / ("pairs.jsonl" if kind == "helpfulness" else "labels.jsonl")),
            epochs=2,
            samples_per_update=20,
            held_out=0.2,
            optimizer=OptimizerConfig(lr=5e-3),
        ),
        track=TrackConfig(wandb=WandbMode.disabled),
    )


def run_both(port: int, folder: Path) -> dict[str, Any]:
    """On every rank: both kinds made, then asked; and what is said of folders that are at fault."""
    from torch import distributed as dist

    asked: dict[str, Any] = {}
    with layout(port, dp=2) as plan:
        from r1mega.stages import reward_model
        from r1mega.stages.parts import load_tokenizer
        from r1mega.stages.scorer import RewardModel

        new_policy(FIELDS, plan).export(folder / "weights")
        if dist.get_rank() == 0:
            for path in (folder / "weights").iterdir():
                path.rename(folder / "model" / path.name)
        dist.barrier()
        for kind in ("helpfulness", "harmlessness"):
            config = config_of(folder, kind)
            reward_model.run(config, plan)
            text = load_tokenizer(config)
            model = RewardModel(config, config.folder / "final", plan, text)
            asked[kind] = {
                "polite": model.score(ASKED, [answer(SAFE[0], GOOD[0], 5)] * 3),
                "rude": model.score(ASKED, [answer(SAFE[0], BAD[0], 5)] * 3),
                "unsafe": model.score(ASKED, [answer(UNSAFE[0], GOOD[0], 5)] * 3),
                "nothing": model.score([], []),
                "too long": model.score(ASKED[:1], [answer(SAFE[0], "It is 5 . " * 30, 0)]),
                "tokens": list(model._read(ASKED[0], answer(UNSAFE[0], GOOD[0], 5)).tokens),
            }
        asked["refused"] = refusals(config, plan, text, folder)
    return asked


def refusals(config: Any, plan: Any, text: Any, folder: Path) -> list[str]:
    from shutil import copytree

    from torch import distributed as dist

    from r1mega.config import BadRun
    from r1mega.stages.scorer import RewardModel

    other = folder / "other tokenizer"
    if dist.get_rank() == 0:
        copytree(config.folder / "final", other)
        words = json.loads((other / "tokenizer.json").read_text())
        words["model"]["vocab"]["more"] = 95
        (other / "tokenizer.json").write_text(json.dumps(words))
    dist.barrier()
    said = []
    for wrong in (other, folder / "model"):
        with pytest.raises(BadRun) as caught:
            RewardModel(config, wrong, plan, text)
        said.append(str(caught.value))
    return said


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def asked(folder: Path) -> dict[str, Any]:
    first, second = run_ranks(2, run_both, free_ports(1)[0], folder)
    assert first == second
    return first


@pytest.mark.parametrize("kind", ["helpfulness", "harmlessness"])
def test_held_out_rows_are_told_rightly_in_the_end(asked: Any, folder: Path, kind: str) -> None:
    summary = json.loads((folder / "runs" / kind / "summary.json").read_text())
    told = summary["eval"]["told_rightly"]
    assert told["final"] >= 0.95
    assert told["gain"] > 0.2
    assert told["gain_ci95"][0] > 0
    rows, texts_apart = (100, 20) if kind == "helpfulness" else (200, 40)
    left_out = {"score_gap": 1, "read_alike": 1} if kind == "helpfulness" else {}
    assert summary["data"] == {"learnt": rows - texts_apart, "held_out": texts_apart, "left_out": left_out}


@pytest.mark.parametrize("kind", ["helpfulness", "harmlessness"])
def test_every_update_has_its_figures(asked: Any, folder: Path, kind: str) -> None:
    lines = [json.loads(line) for line in (folder / "runs" / kind / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines] == list(range(1, (8 if kind == "helpfulness" else 16) + 1))
    for line in lines:
        assert line.keys() >= {"loss", "accuracy", "margin", "grad_norm", "lr", "tokens_per_s"}
        assert line["passes_differ"] < 1e-5
        assert line["lr"] == 5e-3
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["margin"] > lines[0]["margin"]


def test_helpfulness_reads_the_summary_and_harmlessness_the_whole(asked: Any) -> None:
    helpful, harmless = asked["helpfulness"], asked["harmlessness"]
    assert min(helpful["polite"]) > max(helpful["rude"])
    assert helpful["polite"] == pytest.approx(helpful["unsafe"], abs=1e-6)
    assert min(harmless["polite"]) > 0 > max(harmless["unsafe"])
    for of_kind in (helpful, harmless):
        assert of_kind["nothing"] == []
        assert np.isfinite(of_kind["too long"]).all()


@pytest.mark.parametrize("kind", ["helpfulness", "harmlessness"])
def test_the_folder_scores_alike_in_transformers(asked: Any, folder: Path, kind: str) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    final = folder / "runs" / kind / "final"
    model = AutoModelForSequenceClassification.from_pretrained(final, dtype=torch.float32).eval()
    assert model.config.pad_token_id == AutoTokenizer.from_pretrained(final).pad_token_id
    assert json.loads((final / "reward_model.json").read_text()) == {"kind": kind, "template": "short"}
    tokens = asked[kind]["tokens"]
    padding = [model.config.pad_token_id] * 3
    with torch.no_grad():
        value = model(torch.tensor([tokens[:-1] + padding])).logits.item()
    assert value == pytest.approx(asked[kind]["unsafe"][0], abs=1e-4)


def test_folders_at_fault_are_refused(asked: Any) -> None:
    other_tokenizer, causal = asked["refused"]
    assert "its tokenizer is another than the policy's" in other_tokenizer
    assert "it has no reward_model.json" in causal
