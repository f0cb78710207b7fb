"""`tools/convert.py`: HF to Megatron and back on other layouts, dtypes, and what it says of bad input."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.command import environment
from support.models import new_policy, random_fields, read_folder
from support.ranks import REPOSITORY, free_ports, layout, run_ranks

FIELDS = random_fields(
    random.Random(2),
    num_hidden_layers=4,
    first_k_dense_replace=1,
    num_attention_heads=4,
    num_nextn_predict_layers=1,
    hidden_size=144,
)
TOKENIZER = {"tokenizer.json": '{"model": 1}', "tokenizer_config.json": '{"eos_token": "x"}'}


def make(port: int, folder: Path) -> None:
    with layout(port) as plan:
        new_policy(FIELDS, plan).export(folder, file_bytes=200_000)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("convert")
    run_ranks(1, make, free_ports(1)[0], home / "hf")
    for name, text in TOKENIZER.items():
        (home / "hf" / name).write_text(text)
    return home


def convert(home: Path, *arguments: str) -> Any:
    command = [sys.executable, str(REPOSITORY / "tools" / "convert.py"), *arguments]
    return subprocess.run(command, cwd=home, env=environment(), capture_output=True, text=True, timeout=600)


def same(left: dict[str, Any], back: dict[str, Any]) -> None:
    import torch

    assert left.keys() == back.keys()
    for name in left:
        assert left[name].dtype == back[name].dtype, name
        assert torch.equal(left[name].view(torch.uint8), back[name].view(torch.uint8)), name


@pytest.fixture(scope="module")
def megatron(home: Path) -> Path:
    done = convert(home, "hf", "megatron", "parallel=tp2")
    assert done.returncode == 0, done.stderr
    assert "reading: 100%" in done.stderr
    return home / "megatron"


def test_to_megatron_under_tp2_and_back_under_pp2_is_the_same_folder(home: Path, megatron: Path) -> None:
    done = convert(home, "megatron", "back", "parallel=pp2")
    assert done.returncode == 0, done.stderr
    assert "writing: 100%" in done.stderr
    same(read_folder(home / "hf"), read_folder(home / "back"))
    config, own = (json.loads((home / name / "config.json").read_text()) for name in ("back", "hf"))
    assert config == own
    for folder in (megatron, home / "back"):
        assert {name: (folder / name).read_text() for name in TOKENIZER} == TOKENIZER
    assert not list(home.glob(".*partial"))


def test_fp8_and_bf16(home: Path) -> None:
    import torch

    from r1mega.weights import fp8, fp8_names

    done = convert(home, "hf", "fp8", "--to", "hf", "--dtype", "fp8")
    assert done.returncode == 0, done.stderr
    done = convert(home, "fp8", "bf16", "--to", "hf", "--dtype", "bf16", "parallel=ep2")
    assert done.returncode == 0, done.stderr
    codes, bf16 = read_folder(home / "fp8"), read_folder(home / "bf16")
    wanted = {}
    for name, tensor in read_folder(home / "hf").items():
        if fp8_names.is_quantised(name):
            tensor = fp8.dequantise(*fp8.quantise(tensor))
            assert codes[name].dtype == torch.float8_e4m3fn
        # The router's bias stays in fp32, as Megatron keeps it and DeepSeek writes it.
        wanted[name] = tensor if name.endswith("e_score_correction_bias") else tensor.bfloat16()
    same(wanted, bf16)
    assert json.loads((home / "bf16" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def bad_folders(home: Path) -> None:
    from safetensors.torch import save_file

    tensors = read_folder(home / "hf")
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1].clone()
    for name, changes in {"misshapen": {}, "strange": {"architectures": ["T5Model"]}}.items():
        (home / name).mkdir()
        save_file(tensors, home / name / "model.safetensors")
        config = json.loads((home / "hf" / "config.json").read_text())
        (home / name / "config.json").write_text(json.dumps(config | changes))
    (home / "empty").mkdir()


def test_bad_input_is_said_without_a_traceback(home: Path) -> None:
    bad_folders(home)
    faults = {
        ("nowhere", "x"): "no such folder",
        ("empty", "x"): "neither *.safetensors nor metadata.json",
        ("strange", "x"): "architectures",
        ("hf", "misshapen"): "it exists",
        ("hf", "x", "--dtype", "fp8"): "--to must be hf",
        ("hf", "x", "grpo.rollouts=3"): "only keys of parallel and cluster",
        ("hf", "x", "parallel.tp=3"): "cannot be divided by tp = 3",
        ("misshapen", "x", "parallel=tp2"): "model.norm.weight: has shape",
    }
    for arguments, words in faults.items():
        done = convert(home, *arguments)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr
        assert not (home / "x").exists()
