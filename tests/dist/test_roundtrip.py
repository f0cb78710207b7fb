"""Weights keep every bit on their way from an HF folder into a layout's shards and out again.

The folders hold random bits, so zeros with a sign, subnormal numbers and NaNs of every payload are in
them. What a folder lacks, has too much or has in another shape is named, on every rank. FP8 goes in as
the numbers its blocks stand for, and comes out as the codes that went in.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.models import new_policy, random_dense_fields, random_fields, read_folder
from support.ranks import free_ports, layout, run_ranks

LAYOUTS: dict[int, dict[str, dict[str, int]]] = {
    1: {"single": {}},
    2: {
        "tp2": {"tp": 2},
        "pp2": {"pp": 2},
        "pp2 x vpp2": {"pp": 2, "vpp": 2},
        "pp2, uneven": {"pp": 2},
        "ep2": {"ep": 2},
        "dp2": {"dp": 2},
    },
    4: {
        "tp4": {"tp": 4},
        "pp4": {"pp": 4},
        "ep4": {"ep": 4},
        "tp2 x pp2": {"tp": 2, "pp": 2},
        "tp2 x dp2": {"tp": 2, "dp": 2},
        "tp2 x ep2": {"tp": 2, "ep": 2, "dp": 2},
        "ep2 x etp2": {"tp": 2, "ep": 2, "etp": 2},
        "pp2 x ep2": {"pp": 2, "ep": 2},
        "pp2 x vpp2 x dp2": {"pp": 2, "vpp": 2, "dp": 2},
    },
    8: {
        "tp2 x pp2 x ep2": {"tp": 2, "pp": 2, "ep": 2, "dp": 2},
        "pp4 x tp2": {"pp": 4, "tp": 2},
        "pp2 x ep4 x etp1": {"pp": 2, "tp": 2, "ep": 4, "etp": 1, "dp": 2},
    },
}
DEGREES = {name: degrees for group in LAYOUTS.values() for name, degrees in group.items()}
NAMES = list(DEGREES)
MODELS_A_LAYOUT = {1: 9, 2: 9, 4: 5, 8: 2}
"""How many models are drawn for a layout of so many ranks."""
LENT = "deepseek_v3 0"
"""The model that is asked for everything else too, and whose folders have faults."""

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


def deepseek(number: int, **fixed: Any) -> dict[str, Any]:
    draw = random.Random(number)
    return random_fields(
        draw,
        # Where there are five, the stages of a pipeline hold unequal numbers of them.
        num_hidden_layers=4 + number % 2,
        first_k_dense_replace=draw.randint(0, 2),
        num_attention_heads=4,
        num_nextn_predict_layers=number % 2,
        q_lora_rank=None if number == 0 else 24,
        **fixed,
    )


def others(kind: str, **fixed: Any) -> dict[str, Any]:
    draw = random.Random(kind)
    return random_dense_fields(draw, kind, divisible_by=4, **{"num_hidden_layers": 4} | fixed)


MODELS = {
    **{f"deepseek_v3 {number}": deepseek(number) for number in range(3)},
    "llama": others("llama", tie_word_embeddings=False),
    "llama, tied": others("llama", tie_word_embeddings=True, num_hidden_layers=5),
    "qwen2": others("qwen2", tie_word_embeddings=False),
    "qwen2, tied": others("qwen2", tie_word_embeddings=True),
    "qwen3": others("qwen3"),
    "qwen3_moe": others("qwen3_moe", num_experts=4),
}
# Neither their sizes nor those of their parts are whole numbers of blocks.
FP8_FIELDS = deepseek(1, hidden_size=200, intermediate_size=264, moe_intermediate_size=136)


def models_of(name: str) -> list[str]:
    """The models that travel through a layout: the one for everything, and others drawn."""
    [ranks] = [ranks for ranks, group in LAYOUTS.items() if name in group]
    sparse = DEGREES[name].get("ep", 1) > 1
    fitting = [model for model in MODELS if not sparse or model.startswith(("deepseek", "qwen3_moe"))]
    drawn = random.Random(name).sample(fitting[1:], min(len(fitting), MODELS_A_LAYOUT[ranks]) - 1)
    return [LENT, *drawn]


PAIRS = [(name, model) for name in NAMES for model in models_of(name)]


def make_folders(port: int, folder: Path) -> None:
    """On one rank: a folder of random bits for each model, and one for each fault."""
    from safetensors.torch import save_file

    with layout(port) as plan:
        for model, fields in MODELS.items():
            new_policy(fields, plan).export(folder / model)
            replace_weights(folder / model, random_bits(folder / model, fields))
        new_policy(FP8_FIELDS, plan).export(folder / "fp8", fp8_blocks=True)
    for name, faults in FAULTS.items():
        tensors = read_folder(folder / LENT)
        if EXTRA in faults:
            tensors[EXTRA] = tensors[MISSHAPEN].clone()
        if MISSHAPEN in faults:
            tensors[MISSHAPEN] = tensors[MISSHAPEN][:-1].clone()
        if MISSING in faults:
            del tensors[MISSING]
        (folder / name).mkdir()
        save_file(tensors, folder / name / WHOLE)
        if name == "damaged":
            (folder / name / WHOLE).write_bytes((folder / name / WHOLE).read_bytes()[:-1])
        if name == "file gone":
            index = {"weight_map": dict.fromkeys(tensors, WHOLE) | {MISSING: GONE}}
            (folder / name / "model.safetensors.index.json").write_text(json.dumps(index))


def replace_weights(folder: Path, tensors: dict[str, Any]) -> None:
    """The folder with these weights instead, in three files among which they are strewn, without an index."""
    from safetensors.torch import save_file

    for path in [*folder.glob("*.safetensors"), *folder.glob("*.index.json")]:
        path.unlink()
    draw = random.Random(0)
    file_of = {name: draw.randrange(3) for name in tensors}
    for file in range(3):
        save_file(
            {name: tensors[name] for name in tensors if file_of[name] == file}, folder / f"{file}.safetensors"
        )


def random_bits(folder: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """For every tensor in the folder; what repeats another still does, a tied head among them."""
    import torch

    from r1mega.model.family import family_of

    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, tensor in read_folder(folder).items():
        words = torch.randint(-(2**31), 2**31, tensor.shape, dtype=torch.int32, generator=generator)
        words.flatten()[0] = -(2**31)  # the bits of -0.0
        made[name] = words.view(torch.float32)
    return made | {name: made[of].clone() for name, of in family_of(fields).copies(fields).items()}


def travel(ports: list[int], layouts: dict[str, dict[str, int]], folder: Path) -> dict[str, Any]:
    """On every rank: the layout's models through it, into `folder/<model> <layout>`.

    The fresh weights before it, and the lending of weights and the faults after it, go along.
    """
    found: dict[str, Any] = {}
    for port, (name, degrees) in zip(ports, layouts.items(), strict=True):
        with layout(port, **degrees) as plan:
            for model in models_of(name):
                policy = new_policy(MODELS[model], staged(plan, name, MODELS[model]))
                found[f"fresh {model} {name}"] = fresh_weights(policy)
                policy.load(folder / model)
                policy.export(folder / f"{model} {name}", file_bytes=100_000)
                if model == LENT:
                    found[f"lent {name}"] = lend(policy)
                    found[name] = {fault: refuse(policy, folder / fault) for fault in FAULTS}
            policy = new_policy(FP8_FIELDS, staged(plan, name, FP8_FIELDS))
            policy.load(folder / "fp8")
            policy.export(folder / f"numbers {name}")
            policy.export(folder / f"codes {name}", fp8_blocks=True)
    return found


def staged(plan: Any, name: str, fields: dict[str, Any]) -> Any:
    """The layout for a model; uneven, all decoder layers are on the first stage, the rest on the last."""
    layers = (fields["num_hidden_layers"], 0)
    return replace(plan, layers_by_stage=layers) if name.endswith("uneven") else plan


def fresh_weights(policy: Any) -> dict[str, int]:
    """A checksum of each whole weight but the router's bias, which the tests set themselves."""
    from r1mega.weights.memory import checksum

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


@pytest.mark.parametrize(("name", "model"), PAIRS)
def test_every_bit_comes_back(folder: Path, travelled: Any, name: str, model: str) -> None:
    import torch

    left, back = read_folder(folder / model), read_folder(folder / f"{model} {name}")
    if MODELS[model].get("tie_word_embeddings"):
        del left["lm_head.weight"]
    bits = torch.cat([tensor.flatten() for tensor in left.values()])
    assert bits.isnan().any()
    assert ((bits == 0) & bits.signbit()).any()
    compare(left, back)


def compare(left: dict[str, Any], back: dict[str, Any]) -> None:
    assert left.keys() == back.keys()
    for key in left:
        assert left[key].dtype == back[key].dtype
        assert left[key].shape == back[key].shape
        assert same_bits([left[key]], [back[key]]), key


@pytest.mark.parametrize(("name", "model"), PAIRS)
def test_the_index_says_where_every_tensor_is(folder: Path, travelled: Any, name: str, model: str) -> None:
    from safetensors import safe_open

    written = folder / f"{model} {name}"
    index = json.loads((written / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in written.glob("*.safetensors"))
    assert len(files) > 1
    assert files == [f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)]
    held = {}
    for file in files:
        with safe_open(written / file, "pt") as opened:
            held |= dict.fromkeys(opened.keys(), file)
    assert index["weight_map"] == held
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in read_folder(written).values())


@pytest.mark.parametrize("name", NAMES)
def test_fp8_is_read_as_its_numbers_and_written_as_its_codes(folder: Path, travelled: Any, name: str) -> None:
    import torch

    from r1mega.weights import fp8

    stored = read_folder(folder / "fp8")
    codes = {key for key, tensor in stored.items() if tensor.dtype == torch.float8_e4m3fn}
    assert any(tensor.shape[0] % 128 and tensor.shape[1] % 128 for tensor in map(stored.get, codes))
    numbers = {
        key: fp8.dequantise(tensor, stored[key + "_scale_inv"]) if key in codes else tensor
        for key, tensor in stored.items()
        if not key.endswith("_scale_inv")
    }
    compare(numbers, read_folder(folder / f"numbers {name}"))
    compare(stored, read_folder(folder / f"codes {name}"))
    said = {
        kind: json.loads((folder / f"{kind} {name}" / "config.json").read_text())
        for kind in ("codes", "numbers")
    }
    assert said["codes"]["quantization_config"]["weight_block_size"] == [128, 128]
    assert "quantization_config" not in said["numbers"]


@pytest.mark.parametrize(("name", "model"), PAIRS)
def test_fresh_weights_are_the_same_in_every_layout_and_no_two_alike(
    travelled: Any, name: str, model: str
) -> None:
    [alone] = travelled[f"fresh {model} single"]
    assert all(rank == alone for rank in travelled[f"fresh {model} {name}"])
    matrices = [of for key, of in alone.items() if "norm" not in key and not key.endswith(".bias")]
    assert len(set(matrices)) == len(matrices)


@pytest.mark.parametrize("name", NAMES)
def test_lent_weights_leave_no_trace(travelled: Any, name: str) -> None:
    for rank in travelled[f"lent {name}"]:
        assert rank == {"seen": True, "returned": True, "after a failure": True}


def test_the_pairs_are_many_and_of_every_family() -> None:
    assert len(PAIRS) >= 40
    for kind in ("deepseek_v3", "llama", "qwen2", "qwen3", "qwen3_moe"):
        reached = {name for name, model in PAIRS if MODELS[model]["model_type"] == kind}
        assert len(reached) >= 5, kind


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", NAMES)
def test_a_folder_at_fault_is_refused_by_name_on_every_rank(travelled: Any, name: str, fault: str) -> None:
    for rank in travelled[name]:
        said, unchanged = rank[fault]
        for tensor in FAULTS[fault]:
            assert tensor in said
        assert unchanged
