"""A layout changes nothing: replaying recorded samples from the same weights gives the same numbers.

Every layout is held against one process: the scores of the samples, the loss and its parts, the
gradient of every weight, every weight after one update, the router's bias, and which experts each token
went to. A token that is routed otherwise is counted, and must have had nearly no choice between two.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.models import new_policy, random_dense_fields, random_fields, random_texts, samples_of
from support.ranks import free_ports, layout, run_ranks
from support.replay import replay, routing

# Two ranks show each axis on every model; more of them show axes together, on what has the most to split.
LAYOUTS: dict[int, dict[str, dict[str, Any]]] = {
    2: {
        "tp2": {"tp": 2},
        "pp2": {"pp": 2},
        "pp2 x vpp2": {"pp": 2, "vpp": 2},
        "pp2, uneven": {"pp": 2, "layers_by_stage": (3, 1)},
        "pp2, uneven, the draft layer beside most": {"pp": 2, "layers_by_stage": (1, 4)},
        "pp2, the head alone": {"pp": 2, "layers_by_stage": (4, 0)},
        "pp2, the draft layer and the head alone": {"pp": 2, "layers_by_stage": (5, 0)},
        "pp2 x vpp2, the embedding, and the draft layer and the head, alone": {
            "pp": 2,
            "vpp": 2,
            "layers_by_stage": (0, 2, 3, 0),
        },
        "cp2": {"cp": 2},
        "ep2": {"ep": 2},
        "tp2 x ep2, experts over the tensor-parallel ranks": {"tp": 2, "ep": 2},
        "cp2 x ep2, experts over the context-parallel ranks": {"cp": 2, "ep": 2},
        "tp2, experts whole": {"tp": 2, "etp": 1},
        "dp2, experts split": {"dp": 2, "etp": 2},
        "dp2": {"dp": 2},
    },
    4: {
        "tp2 x ep2, experts over the data-parallel ranks": {"tp": 2, "ep": 2, "dp": 2},
        "tp2 x ep2 x etp2": {"tp": 2, "ep": 2, "etp": 2},
        "pp2 x ep2": {"pp": 2, "ep": 2},
        "cp2 x tp2": {"cp": 2, "tp": 2},
        "cp2 x pp2 x vpp2": {"cp": 2, "pp": 2, "vpp": 2},
        "cp4": {"cp": 4},
    },
    8: {
        "tp2 x pp2 x dp2": {"tp": 2, "pp": 2, "dp": 2},
    },
}
SPARSE = ("groups", "draft", "qwen3_moe")
MODELS = (*SPARSE, "llama")
SAMPLES = 24

LOSS_LIMIT = 1e-5
GRADIENT_LIMIT = 1e-4
"""Of the difference's norm, relative to the whole gradient's."""
WEIGHTS_LIMIT = 1e-4
"""Of the difference's norm after one update, relative to the weights'."""
MOVED_LIMIT = 1e-3
"""Of the same difference, relative to what the update moved the weights by."""
NO_CHOICE = 1e-5
"""Two scores of the router that are closer than this may be ranked either way."""
MOVED_BIAS = 0.02


def models() -> dict[str, dict[str, Any]]:
    """DeepSeek-V3 with expert groups, and without, with a draft layer and an odd number of layers; Qwen3-MoE,
    and Llama whose output layer is its embedding.
    """
    draw = random.Random(1)
    common = {"divisible_by": 2, "first_k_dense_replace": 1, "n_routed_experts": 8}
    groups = {
        "num_hidden_layers": 4,
        "n_group": 4,
        "topk_group": 2,
        "num_experts_per_tok": 4,
        "num_nextn_predict_layers": 0,
    }
    draft = {
        "num_hidden_layers": 5,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 3,
        "num_nextn_predict_layers": 1,
    }
    sparse = {
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [0],
    }
    shared_heads = {
        "divisible_by": 2,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "num_attention_heads": 4,
    }
    return {
        "groups": random_fields(draw, **common, **groups, n_shared_experts=2),
        "draft": random_fields(draw, **common, **draft, rope_scaling=None),
        "qwen3_moe": random_dense_fields(draw, "qwen3_moe", **shared_heads, **sparse),
        "llama": random_dense_fields(draw, "llama", **shared_heads, tie_word_embeddings=True),
    }


def alone(port: int, folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """On one rank: what is recorded of each model, what a replay gives, and one with a moved bias."""
    with layout(port) as plan:
        recorded = {name: record(plan, name, fields, folder / name) for name, fields in models().items()}
        replayed = {name: replay(plan, recording) for name, recording in recorded.items()}
        return recorded, replayed, replay(plan, recorded["groups"], moved_bias=MOVED_BIAS)


def record(plan: Any, name: str, fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The weights, as an HF folder, and samples with all that GRPO's loss needs of them."""
    import torch

    from r1mega.grpo.loss import sample_weights

    policy = new_policy(fields, plan)
    policy.export(folder)
    texts = random_texts(random.Random(name), fields["vocab_size"], SAMPLES)
    logps = policy.score(samples_of(texts), 1.0)
    generator = torch.Generator().manual_seed(0)
    # As if the policy had moved since: some ratios are clipped, some are not.
    old, ref = ([x + 0.2 * torch.randn(x.shape, generator=generator) for x in logps] for _ in range(2))
    lengths = [len(one) for one in logps]
    advantages, weights = torch.randn(len(texts), generator=generator), sample_weights(lengths)
    return {
        "fields": fields,
        "folder": folder,
        "texts": texts,
        "values": {
            "old_logps": old,
            "ref_logps": ref,
            "advantages": [one.expand(n) for one, n in zip(advantages, lengths, strict=True)],
            "weights": [one.expand(n) for one, n in zip(weights, lengths, strict=True)],
        },
    }


def replay_layouts(
    ports: list[int], layouts: dict[str, dict[str, Any]], recorded: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """On every rank: what each layout makes of each recording."""
    found = {}
    for port, (name, degrees) in zip(ports, layouts.items(), strict=True):
        with layout(port, **degrees) as plan:
            found[name] = {
                model: replay(plan, recording)
                for model, recording in recorded.items()
                if fits(plan.world_size, degrees, model)
            }
    return found


@pytest.fixture(scope="module")
def lone(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    [found] = run_ranks(1, alone, free_ports(1)[0], tmp_path_factory.mktemp("hf"))
    return found


@pytest.fixture(scope="module")
def single(lone: Any) -> dict[str, Any]:
    """By model."""
    return lone[1]


@pytest.fixture(scope="module")
def layouts(lone: Any) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """By layout and model, what came out on each rank."""
    found = {}
    for ranks, degrees in LAYOUTS.items():
        by_rank = run_ranks(ranks, replay_layouts, free_ports(len(degrees)), degrees, lone[0])
        for name in degrees:
            found |= {
                (name, model): [of_rank[name][model] for of_rank in by_rank] for model in by_rank[0][name]
            }
    return found


def relative(difference: dict[str, Any], whole: dict[str, Any]) -> float:
    return norm_of(difference) / norm_of(whole)


def norm_of(tensors: dict[str, Any]) -> float:
    return float(np.sqrt(sum((x.astype(np.float64) ** 2).sum() for x in tensors.values())))


def minus(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    assert a.keys() == b.keys()
    return {name: a[name].astype(np.float64) - b[name] for name in a}


def fits(ranks: int, degrees: dict[str, Any], model: str) -> bool:
    """Whether the model is replayed so; a dense one has no experts to deal out or to split."""
    layers = 5 if model == "draft" else 4
    return sum(degrees.get("layers_by_stage", (layers,))) == layers and (
        model in ("groups", "draft")
        if ranks > 2
        else model in SPARSE or degrees.keys().isdisjoint({"ep", "etp"})
    )


CASES = [
    (name, model)
    for model in MODELS
    for ranks, group in LAYOUTS.items()
    for name, degrees in group.items()
    if fits(ranks, degrees, model)
]
every_layout = pytest.mark.parametrize(("name", "model"), CASES)


@every_layout
def test_scores_are_the_same_on_every_rank_and_in_every_layout(
    layouts: Any, single: Any, name: str, model: str
) -> None:
    ranks = layouts[name, model]
    first = ranks[0]["scores"]
    for rank in ranks[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(first, rank["scores"], strict=True))
    turned = ranks[0]["scores_backwards"][::-1]
    worst, turned = (
        max(np.abs(a - b).max() for a, b in zip(first, other, strict=True))
        for other in (single[model]["scores"], turned)
    )
    print(f"scores {worst:.1e}, with the samples in the other order {turned:.1e}")
    assert max(worst, turned) <= LOSS_LIMIT


@every_layout
def test_loss_and_its_parts(layouts: Any, single: Any, name: str, model: str) -> None:
    theirs = {key: value for key, value in single[model]["metrics"].items() if key != "grad_norm"}
    assert 0 < theirs["pg_clipfrac"] < 1
    for rank in layouts[name, model]:
        ours = rank["metrics"]
        assert ours.keys() == single[model]["metrics"].keys()
        off = {key: abs(ours[key] - theirs[key]) for key in theirs}
        print({key: f"{value:.1e}" for key, value in off.items()})
        assert max(off.values()) <= LOSS_LIMIT


@every_layout
def test_gradients(layouts: Any, single: Any, name: str, model: str) -> None:
    ours, theirs = layouts[name, model][0], single[model]
    off = relative(minus(ours["gradients"], theirs["gradients"]), theirs["gradients"])
    norm = theirs["metrics"]["grad_norm"]
    print(f"gradients {off:.1e}, norm {abs(ours['metrics']['grad_norm'] / norm - 1):.1e}")
    assert norm == pytest.approx(norm_of(theirs["gradients"]), rel=1e-5)
    assert off <= GRADIENT_LIMIT
    assert ours["metrics"]["grad_norm"] == pytest.approx(norm, rel=GRADIENT_LIMIT)


@every_layout
def test_weights_after_one_update(layouts: Any, single: Any, name: str, model: str) -> None:
    """Also of what the update moved them by, which the weights' own size would hide."""
    ours, theirs = layouts[name, model][0]["weights"], single[model]["weights"]
    off = relative(minus(ours, theirs), theirs)
    moved = relative(minus(ours, theirs), minus(theirs, single[model]["weights_before"]))
    print(f"weights {off:.1e}, of what they moved by {moved:.1e}")
    assert off <= WEIGHTS_LIMIT
    assert moved <= MOVED_LIMIT


@every_layout
def test_copies_of_a_shard_stay_alike(layouts: Any, name: str, model: str) -> None:
    seen: dict[str, int] = {}
    for rank in layouts[name, model]:
        for place, checksum in rank["checksums"].items():
            assert seen.setdefault(place, checksum) == checksum, place


@pytest.mark.parametrize(("name", "model"), [case for case in CASES if case[1] in SPARSE])
def test_tokens_routed_otherwise_had_no_choice(layouts: Any, single: Any, name: str, model: str) -> None:
    """Counts them; where there is none, the router's bias has moved exactly alike too."""
    ours, theirs = routing(layouts[name, model]), routing([single[model]])
    assert ours["layers"] == theirs["layers"] == list(range(2, models()[model]["num_hidden_layers"] + 1))
    otherwise = (ours["chosen"] != theirs["chosen"]).any(-1)
    print(f"{otherwise.sum()} of {otherwise.size} routed otherwise; closest call {theirs['gap'].min():.1e}")
    assert (theirs["gap"][otherwise] < NO_CHOICE).all()
    if not otherwise.any():
        after = layouts[name, model][0]["weights"]
        biases = [key for key in after if key.endswith("e_score_correction_bias")]
        assert bool(biases) == (model != "qwen3_moe")
        assert all(np.array_equal(after[key], single[model]["weights"][key]) for key in biases)


def test_a_token_that_is_routed_otherwise_would_be_seen(lone: Any) -> None:
    """The count above is no blind one: with one expert's bias moved, some tokens go elsewhere."""
    _, replayed, moved = lone
    ours, theirs = routing([moved]), routing([replayed["groups"]])
    otherwise = (ours["chosen"] != theirs["chosen"]).any(-1)
    assert 0 < otherwise.sum() < otherwise.size
    # In the first of the layers, whose input is the same, only a call closer than the bias can turn.
    assert theirs["gap"][0][otherwise[0]].max() <= MOVED_BIAS + 1e-5
