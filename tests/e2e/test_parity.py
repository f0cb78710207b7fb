"""The parity tool finds three sides alike where they are, and names the layer where they are not."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.command import environment
from support.handover import engine_fields
from support.models import new_policy, random_dense_fields
from support.ranks import REPOSITORY, free_ports, layout, run_ranks

LIMIT = 1e-4
CHANGED = "model.layers.1.self_attn.o_proj.weight"
PAIRS = {"Megatron - transformers", "vLLM - transformers", "vLLM - Megatron"}


def export(port: int, folder: Path) -> None:
    """On one rank: a folder of each of two families, with fresh weights."""
    draw = random.Random(5)
    deepseek = engine_fields(draw, num_hidden_layers=3, qk_nope_head_dim=16, max_position_embeddings=128)
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 32}
    qwen = random_dense_fields(draw, "qwen3", divisible_by=2, **sizes, num_key_value_heads=2)
    with layout(port) as plan:
        for name, fields in (("deepseek", deepseek), ("qwen", qwen)):
            new_policy(fields, plan).export(folder / name)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    run_ranks(1, export, free_ports(1)[0], folder)
    return folder


def parity(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The tool, to its end."""
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "tools" / "parity.py"), *map(str, arguments)],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
    )


def figures(code: int, *arguments: str | Path) -> Any:
    """Every figure of a run that must end with this code."""
    file = Path(arguments[0]).parent / "figures.json"
    done = parity(*arguments, "--json", file)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    print(done.stdout)
    return json.loads(file.read_text())


@pytest.mark.parametrize(
    ("model", "overrides", "layers"),
    [("deepseek", ["parallel=tp2", "rollout.tensor_parallel=2"], 3), ("qwen", ["parallel=pp2"], 3)],
)
def test_three_sides_of_one_model_are_alike(
    models: Path, model: str, overrides: list[str], layers: int
) -> None:
    found = figures(0, models / model, *overrides)
    assert found["pairs"].keys() == PAIRS
    for pair in found["pairs"].values():
        assert 0 <= pair["mean"] <= pair["max"] <= LIMIT
    names = ["model.embed_tokens", *(f"model.layers.{n}" for n in range(layers)), "model.norm"]
    assert list(found["layers"]) == names
    assert found["parts_at"] is None
    assert set(found["rerouted"].values()) <= {0.0}
    assert bool(found["rerouted"]) == (model == "deepseek")


def test_a_changed_layer_is_named(models: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = models / "changed"
    shutil.copytree(models / "deepseek", other)
    [file] = other.glob("*.safetensors")
    tensors = load_file(file)
    tensors[CHANGED][0] += 0.5
    save_file(tensors, file, metadata={"format": "pt"})
    found = figures(1, models / "deepseek", "--reference", other)
    assert found["parts_at"] == "model.layers.1"
    assert max(found["layers"][name] for name in ("model.embed_tokens", "model.layers.0")) <= LIMIT
    assert found["pairs"]["vLLM - Megatron"]["max"] <= LIMIT
    assert found["pairs"]["Megatron - transformers"]["max"] > LIMIT


def test_what_cannot_be_compared_is_said_in_a_line(models: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(models / "deepseek", broken)
    (broken / "config.json").write_text("{")
    text = tmp_path / "text"
    text.write_text("one\n")
    for arguments, words in (
        ([tmp_path / "nowhere"], "nowhere: no such folder"),
        ([tmp_path], "a model's folder has config.json and *.safetensors"),
        ([broken], "config.json: not JSON"),
        ([models / "deepseek", "parallel.ep=3"], "experts cannot be divided by ep = 3"),
        ([models / "deepseek", "--text", text], "has no tokenizer.json"),
        ([models / "deepseek", "--reference", models / "qwen"], "is of other tensors"),
        ([models / "deepseek", "--json", tmp_path / "no" / "file"], "no is no folder"),
        ([models / "deepseek", "rollout.max_context_tokens=2"], "was 2; must be at least 3"),
    ):
        done = parity(*arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith("error: ")
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
