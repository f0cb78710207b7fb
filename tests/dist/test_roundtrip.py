"""Weights keep every bit on their way from an HF folder into a layout's shards and out again.

The folders hold random bits, so zeros with a sign, subnormal numbers and NaNs of every payload are in
them. What a folder lacks, has too much or has in another shape is named, on every rank.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from support.models import new_policy, random_fields, read_folder
from support.ranks import free_ports, layout, run_ranks

LAYOUTS: dict[int, dict[str, dict[str, int]]] = {
    1: {"single": {}},
    2: {"tp2": {"tp": 2}, "pp2": {"pp": 2}, "pp2 x vpp2": {"pp": 2, "vpp": 2}, "ep2": {"ep": 2}},
    4: {
        "tp4": {"tp": 4},
        "pp4": {"pp": 4},
        "ep4": {"ep": 4},
        "tp2 x pp2": {"tp": 2, "pp": 2},
        "tp2 x ep2": {"tp": 2, "ep": 2, "dp": 2},
        "ep2 x etp2": {"tp": 2, "ep": 2, "etp": 2},
        "pp2 x ep2": {"pp": 2, "ep": 2},
    },
}
NAMES = [name for group in LAYOUTS.values() for name in group]
MODELS = 3

MISSING = "model.layers.0.self_attn.o_proj.weight"
EXTRA = "model.layers.0.self_attn.rotary_emb.inv_freq"
MISSHAPEN = "model.layers.3.input_layernorm.weight"
WHOLE, GONE = "model.safetensors", "model-00002.safetensors"
FAULTS = {
    "missing": [MISSING],
    "extra": [EXTRA],
    "misshapen": [MISSHAPEN],
    "all at once": [MISSING, EXTRA, MISSHAPEN],
    "damaged": [WHOLE],
    "file gone": [GONE],
}


def fields_of(number: int) -> dict[str, Any]:
    draw = random.Random(number)
    return random_fields(
        draw,
        # Where there are five, the stages of a pipeline hold unequal numbers of them.
        num_hidden_layers=4 + number % 2,
        first_k_dense_replace=draw.randint(0, 2),
        num_attention_heads=4,
        num_nextn_predict_layers=number % 2,
        q_lora_rank=None if number == 0 else 24,
    )


def make_folders(port: int, folder: Path) -> None:
    """On one rank: a folder of random bits for each model, and one for each fault."""
    from safetensors.torch import save_file

    with layout(port) as plan:
        for number in range(MODELS):
            new_policy(fields_of(number), plan).export(folder / str(number))
            save_file(random_bits(folder / str(number)), one_file(folder / str(number)))
    for name, faults in FAULTS.items():
        tensors = read_folder(folder / "0")
        if EXTRA in faults:
            tensors[EXTRA] = tensors[MISSHAPEN].clone()
        if MISSHAPEN in faults:
            tensors[MISSHAPEN] = tensors[MISSHAPEN][:-1].clone()
        if MISSING in faults:
            del tensors[MISSING]
        (folder / name).mkdir()
        save_file(tensors, folder / name / WHOLE)
        if name == "damaged":
            (folder / name / WHOLE).write_bytes(one_file(folder / "0").read_bytes()[:-1])
        if name == "file gone":
            index = {"weight_map": dict.fromkeys(tensors, WHOLE) | {MISSING: GONE}}
            (folder / name / "model.safetensors.index.json").write_text(json.dumps(index))


def one_file(folder: Path) -> Path:
    [file] = folder.glob("*.safetensors")
    return file


def random_bits(folder: Path) -> dict[str, Any]:
    import torch

    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, tensor in read_folder(folder).items():
        words = torch.randint(-(2**31), 2**31, tensor.shape, dtype=torch.int32, generator=generator)
        words.flatten()[0] = -(2**31)  # the bits of -0.0
        made[name] = words.view(torch.float32)
    return made


def travel(ports: list[int], layouts: dict[str, dict[str, int]], folder: Path) -> dict[str, Any]:
    """On every rank: each model through each layout, into `folder/<model> <layout>`.

    The fresh weights before it, and the lending of weights and the faults after it, go along.
    """
    found: dict[str, Any] = {}
    for port, (name, degrees) in zip(ports, layouts.items(), strict=True):
        with layout(port, **degrees) as plan:
            for number in range(MODELS):
                policy = new_policy(fields_of(number), plan)
                found[f"fresh {number} {name}"] = fresh_weights(policy)
                policy.load(folder / str(number))
                policy.export(folder / f"{number} {name}")
                found[f"{number} {name}"] = lend(policy)
            refused = new_policy(fields_of(0), plan)
            found[name] = {fault: refuse(refused, folder / fault) for fault in FAULTS}
    return found


def fresh_weights(policy: Any) -> dict[str, int]:
    """A checksum of each whole weight but the router's bias, which the tests set themselves."""
    from r1mega.weights.shared_memory import checksum

    return {name: checksum(x) for name, x in policy.source if not name.endswith("e_score_correction_bias")}


def lend(policy: Any) -> dict[str, bool]:
    """Whether `using` shows the weights lent and gives the own ones back, also after a failure."""
    import torch

    own = policy.snapshot()
    lent = [torch.randn_like(weight) for weight in own]
    with policy.using(lent):
        seen = same_bits(policy.snapshot(), lent)
    returned = same_bits(policy.snapshot(), own)
    try:
        with policy.using(lent):
            raise KeyError
    except KeyError:
        return {"seen": seen, "returned": returned, "after a failure": same_bits(policy.snapshot(), own)}


def same_bits(a: list[Any], b: list[Any]) -> bool:
    import torch

    bytes_of = ([x.contiguous().view(torch.uint8) for x in side] for side in (a, b))
    return all(torch.equal(x, y) for x, y in zip(*bytes_of, strict=True))


def refuse(policy: Any, folder: Path) -> tuple[str, bool]:
    """What is said of the folder, and whether the weights are as before."""
    from r1mega.weights.folder import FolderError

    before = policy.snapshot()
    try:
        policy.load(folder)
    except FolderError as error:
        return str(error), same_bits(policy.snapshot(), before)
    return "", False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf")
    run_ranks(1, make_folders, free_ports(1)[0], folder)
    return folder


@pytest.fixture(scope="module")
def travelled(folder: Path) -> dict[str, list[Any]]:
    """By layout, and by model and layout: what each rank found."""
    found = {}
    for ranks, layouts in LAYOUTS.items():
        by_rank = run_ranks(ranks, travel, free_ports(len(layouts)), layouts, folder)
        found |= {name: [of_rank[name] for of_rank in by_rank] for name in by_rank[0]}
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_bit_comes_back(folder: Path, travelled: Any, name: str) -> None:
    import torch

    for number in range(MODELS):
        left, back = read_folder(folder / str(number)), read_folder(folder / f"{number} {name}")
        assert left.keys() == back.keys()
        bits = torch.cat([tensor.flatten() for tensor in left.values()])
        assert bits.isnan().any()
        assert ((bits == 0) & bits.signbit()).any()
        for key in left:
            assert left[key].dtype == back[key].dtype
            assert same_bits([left[key]], [back[key]]), key


@pytest.mark.parametrize("name", NAMES)
def test_fresh_weights_are_the_same_in_every_layout_and_no_two_alike(travelled: Any, name: str) -> None:
    for number in range(MODELS):
        [alone] = travelled[f"fresh {number} single"]
        assert all(rank == alone for rank in travelled[f"fresh {number} {name}"])
        matrices = [of for key, of in alone.items() if "norm" not in key]
        assert len(set(matrices)) == len(matrices)


@pytest.mark.parametrize("name", NAMES)
def test_lent_weights_leave_no_trace(travelled: Any, name: str) -> None:
    for number in range(MODELS):
        for rank in travelled[f"{number} {name}"]:
            assert rank == {"seen": True, "returned": True, "after a failure": True}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", NAMES)
def test_a_folder_at_fault_is_refused_by_name_on_every_rank(travelled: Any, name: str, fault: str) -> None:
    for rank in travelled[name]:
        said, unchanged = rank[fault]
        for tensor in FAULTS[fault]:
            assert tensor in said
        assert unchanged
