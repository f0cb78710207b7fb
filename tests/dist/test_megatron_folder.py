"""A Megatron checkpoint gives every bit back under another layout, and is refused where it is not one."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.models import new_policy, random_dense_fields, random_fields, read_folder
from support.ranks import free_ports, layout, run_ranks

WAYS: dict[str, list[dict[str, int]]] = {
    "tp2 x pp2 to ep2": [{"tp": 2, "pp": 2}, {"ep": 2}],
    "tp2 x pp2 to single": [{"tp": 2, "pp": 2}, {}],
    "pp2 x ep2 to tp2": [{"pp": 2, "ep": 2}, {"tp": 2}],
    "tp2 x ep2 to pp2 x vpp2": [{"tp": 2, "ep": 2, "dp": 2}, {"pp": 2, "vpp": 2}],
}
"""Saved by four ranks, restored by one or two."""
MODELS = {
    "deepseek_v3": random_fields(
        random.Random(5),
        num_hidden_layers=4,
        first_k_dense_replace=1,
        num_attention_heads=4,
        num_nextn_predict_layers=1,
    ),
    "qwen2, tied": random_dense_fields(
        random.Random(1), "qwen2", divisible_by=4, num_hidden_layers=4, tie_word_embeddings=True
    ),
    "qwen3_moe": random_dense_fields(random.Random(2), "qwen3_moe", divisible_by=4, num_hidden_layers=4),
}
PAIRS = [
    (way, model)
    for way, layouts in WAYS.items()
    for model in MODELS
    if model != "qwen2, tied" or all("ep" not in degrees for degrees in layouts)
]
FAULTS = {
    "foreign index": "posix.system",
    "foreign common": "common.pt",
    "another model": "mtp.layers.0.enorm.weight",
    "cut": "cannot be read",
    "another backend": "zarr",
}


def save(ports: list[int], folder: Path) -> None:
    for port, (way, (degrees, _)) in zip(ports, WAYS.items(), strict=True):
        with layout(port, **degrees) as plan:
            for model in models_of(way):
                policy = new_policy(MODELS[model], plan)
                policy.export(folder / f"left {way} {model}")
                policy.save(folder / f"{way} {model}")


def restore(ports: list[int], ways: list[str], folder: Path) -> dict[str, str]:
    """Each way's checkpoints, written out again; what is said of the folders at fault by the last model."""
    for port, way in zip(ports, ways, strict=True):
        with layout(port, **WAYS[way][1]) as plan:
            for model in models_of(way):
                policy = new_policy(MODELS[model], plan)
                for piece in policy.pieces:
                    piece.tensor.fill_(7.0)
                policy.restore(folder / f"{way} {model}")
                policy.export(folder / f"back {way} {model}")
            said = refuse(policy, folder)
    return said


def models_of(way: str) -> list[str]:
    return [model for one, model in PAIRS if one == way]


def refuse(policy: Any, folder: Path) -> dict[str, str]:
    """What is said of each folder at fault."""
    from r1mega.weights.whole import FolderError

    said = {}
    for fault in FAULTS:
        try:
            policy.restore(folder / fault)
        except FolderError as error:
            said[fault] = str(error)
    return said


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def make_faults(folder: Path) -> None:
    sound = folder / "tp2 x pp2 to single qwen3_moe"
    for fault in FAULTS:
        shutil.copytree(sound, folder / fault)
    (folder / "foreign index" / ".metadata").write_bytes(pickle.dumps(Evil()))
    (folder / "foreign common" / "common.pt").write_bytes(pickle.dumps(Evil()))
    (folder / "cut" / ".metadata").write_bytes((sound / ".metadata").read_bytes()[:-100])
    (folder / "another backend" / "metadata.json").write_text(json.dumps({"sharded_backend": "zarr"}))
    shutil.rmtree(folder / "another model")
    shutil.copytree(folder / "tp2 x pp2 to single deepseek_v3", folder / "another model")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("megatron")


@pytest.fixture(scope="module")
def refusals(folder: Path) -> list[dict[str, str]]:
    """By rank; everything else that was done lies in the folder."""
    run_ranks(4, save, free_ports(len(WAYS)), folder)
    make_faults(folder)
    said = []
    for ranks in (1, 2):
        ways = [way for way in WAYS if way.endswith("single") == (ranks == 1)]
        said += run_ranks(ranks, restore, free_ports(len(ways)), ways, folder)
    return said


@pytest.mark.parametrize(("way", "model"), PAIRS)
def test_every_bit_comes_back_under_another_layout(folder: Path, refusals: Any, way: str, model: str) -> None:
    import torch

    left, back = (read_folder(folder / f"{side} {way} {model}") for side in ("left", "back"))
    assert left.keys() == back.keys()
    for name in left:
        assert torch.equal(left[name].view(torch.uint8), back[name].view(torch.uint8)), name


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_checkpoint_of_the_model_is_refused_on_every_rank(refusals: Any, fault: str) -> None:
    for said in refusals:
        assert FAULTS[fault] in said[fault]
