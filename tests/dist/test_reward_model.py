"""Models with a scalar head: they score as transformers' do, learn the exact gradient of the pairwise loss,
and do both alike in every layout; their folders keep every bit.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.models import (
    new_policy,
    random_dense_fields,
    random_fields,
    random_texts,
    read_folder,
)
from support.ranks import free_ports, layout, run_ranks
from support.replay import array, whole, whole_gradients

LAYOUTS: dict[int, dict[str, dict[str, int]]] = {
    2: {
        "tp2": {"tp": 2},
        "pp2": {"pp": 2},
        "ep2": {"ep": 2},
        "cp2": {"cp": 2},
        "dp2": {"dp": 2},
        "tp2 x ep2": {"tp": 2, "ep": 2},
    },
    4: {"tp2 x pp2 x ep2": {"tp": 2, "pp": 2, "ep": 2}},
}
MODELS = ("deepseek_v3", "qwen2", "llama")
CASES = [
    (name, model)
    for group in LAYOUTS.values()
    for name, degrees in group.items()
    for model in (MODELS[:1] if "ep" in degrees else MODELS[:2])
]
PAIRS = 11  # an odd number, which no layout deals out evenly
LIMIT = 1e-4
"""Against transformers, of a value."""
SCORE_LIMIT = 1e-5
GRADIENT_LIMIT = 1e-4
"""Of the difference's norm, relative to the whole gradient's."""
MOVED_LIMIT = 1e-3
"""Of the weights after one update, relative to what it moved them by."""


def causal(model: str) -> dict[str, Any]:
    """The fields of the causal model; the DeepSeek has a draft layer, the Llama a tied head."""
    draw = random.Random(7)
    if model == "deepseek_v3":
        experts = {"n_routed_experts": 8, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2}
        return random_fields(
            draw,
            divisible_by=2,
            num_hidden_layers=4,
            first_k_dense_replace=1,
            num_nextn_predict_layers=1,
            **experts,
        )
    heads = {"num_key_value_heads": 2, "num_attention_heads": 4, "num_hidden_layers": 4, "head_dim": 16}
    return random_dense_fields(
        draw, model, divisible_by=2, tie_word_embeddings=model == "llama", rope_scaling=None, **heads
    )


def scalar(model: str) -> dict[str, Any]:
    from r1mega.model.family import with_scalar_head

    return with_scalar_head(causal(model))


def pairs(model: str) -> Any:
    """Pairs of random texts; the last token of each is the dummy that its value is the value before."""
    from r1mega.model.rows import Sample
    from r1mega.stages.reward_rows import Rows

    texts = random_texts(random.Random(model), causal(model)["vocab_size"], 2 * PAIRS, longest=40)
    samples = [Sample(tokens, len(tokens) - 1) for tokens, _ in texts]
    both = list(zip(samples[0::2], samples[1::2], strict=True))
    return Rows([str(number) for number in range(PAIRS)], both, None)


def alone(port: int, folder: Path) -> dict[str, Any]:
    """On one rank: the folders of each model, what transformers says of them, and a replay."""
    found = {}
    with layout(port) as plan:
        for model in MODELS:
            policy = new_policy(causal(model), plan)
            policy.export(folder / f"{model} causal")
            policy = new_policy(scalar(model), plan)
            policy.load_trunk(folder / f"{model} causal", causal(model))
            policy.export(folder / model)
            policy.save(folder / f"{model} megatron")
            found[model] = {
                "transformers": by_transformers(folder / model, pairs(model)),
                "refused": refusals(plan, folder, model),
                **replay(plan, folder, model),
            }
    return found


def refusals(plan: Any, folder: Path, model: str) -> dict[str, str]:
    """What is said of folders that are not the model's."""
    from safetensors.torch import save_file

    from r1mega.weights.whole import FolderError

    policy = new_policy(scalar(model), plan)
    tensors = read_folder(folder / f"{model} causal")
    wrong = folder / f"{model} wrong"
    wrong.mkdir()
    del tensors["model.norm.weight"]
    tensors["model.more.weight"] = tensors["model.embed_tokens.weight"] + 1
    save_file(tensors, wrong / "a.safetensors")
    said = {}
    for name, load in {
        "a causal folder as a scalar one": lambda: policy.load(folder / f"{model} causal"),
        "a causal folder with a fault": lambda: policy.load_trunk(wrong, causal(model)),
    }.items():
        try:
            load()
        except FolderError as error:
            said[name] = str(error)
    return said


def by_transformers(folder: Path, rows: Any) -> dict[str, Any]:
    """The values, and the gradient of the mean pairwise loss, by autograd through transformers' model."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model, loading = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    model.eval()
    texts = [list(sample.tokens[:-1]) for sample in rows.samples(range(PAIRS))]
    values = [model(torch.tensor([tokens])).logits.view(1) for tokens in texts]
    chosen, rejected = torch.cat(values).view(-1, 2).unbind(1)
    loss = -torch.nn.functional.logsigmoid(chosen - rejected).mean()
    loss.backward()
    return {
        "values": array(torch.cat(values)),
        "loss": loss.item(),
        "gradients": {name: array(of.grad) for name, of in model.named_parameters() if of.grad is not None},
        "missing": sorted(loading["missing_keys"]),
        "unexpected": sorted(loading["unexpected_keys"]),
    }


def replay(plan: Any, folder: Path, model: str) -> dict[str, Any]:
    """All that a layout could change: values, gradients, one update; and the folder written again."""
    from r1mega.config import OptimizerConfig
    from r1mega.preference.loss import linear
    from r1mega.stages.reward_model import update

    policy = new_policy(scalar(model), plan, tokens_per_microbatch=64)
    policy.restore(folder / f"{model} megatron")
    restored = whole(policy)
    policy.load(folder / model)
    before = whole(policy)
    assert all(np.array_equal(before[name].view(np.int32), restored[name].view(np.int32)) for name in before)
    rows = pairs(model)
    samples = rows.samples(range(PAIRS))
    values = policy.score(samples, 1.0)
    frozen = scores_frozen(plan, folder, model, samples)
    policy.start_training(OptimizerConfig(lr=1e-3), updates=10)
    with policy.using(policy.snapshot()):
        coefficients_B = rows.judge(range(PAIRS), values).coefficients_RK.flatten() / PAIRS
        policy.backward(samples, {"coefficients": coefficients_B.split(1)}, linear, 0.0)
        gradients = whole_gradients(policy)
    figures = update(policy, rows, range(PAIRS))
    return {
        "values": np.concatenate([array(value) for value in values]),
        "frozen": np.concatenate([array(value) for value in frozen]),
        "gradients": gradients,
        "figures": figures,
        "before": before,
        "after": whole(policy),
    }


def scores_frozen(plan: Any, folder: Path, model: str, samples: list[Any]) -> list[Any]:
    """The values by a policy that has no room for gradients."""
    from r1mega.config import Config, Stage, TrainConfig
    from r1mega.policy import Policy

    config = Config(stage=Stage.grpo, name="test", train=TrainConfig(tokens_per_microbatch=64))
    policy = Policy(config, scalar(model), plan, fresh=False, trainable=False)
    policy.load(folder / model)
    assert not any(chunk.buffers for chunk in policy.chunks)
    return policy.score(samples, 1.0)


def replay_layouts(
    ports: list[int], layouts: dict[str, dict[str, int]], folder: Path
) -> dict[tuple[str, str], dict[str, Any]]:
    """On every rank: what each layout makes of each model that it can split."""
    found = {}
    for port, (name, degrees) in zip(ports, layouts.items(), strict=True):
        with layout(port, **degrees) as plan:
            found |= {(name, model): replay(plan, folder, model) for at, model in CASES if at == name}
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hf")


@pytest.fixture(scope="module")
def single(folder: Path) -> dict[str, Any]:
    """By model."""
    [found] = run_ranks(1, alone, free_ports(1)[0], folder)
    return found


@pytest.fixture(scope="module")
def layouts(folder: Path, single: Any) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """By layout and model, what came out on each rank."""
    found = {}
    for ranks, degrees in LAYOUTS.items():
        by_rank = run_ranks(ranks, replay_layouts, free_ports(len(degrees)), degrees, folder)
        found |= {case: [of_rank[case] for of_rank in by_rank] for case in by_rank[0]}
    return found


def relative(ours: dict[str, Any], theirs: dict[str, Any], to: dict[str, Any]) -> float:
    assert ours.keys() == theirs.keys()
    return norm_of({name: ours[name].astype(np.float64) - theirs[name] for name in ours}) / norm_of(to)


def norm_of(tensors: dict[str, Any]) -> float:
    return float(np.sqrt(sum((x.astype(np.float64) ** 2).sum() for x in tensors.values())))


@pytest.mark.parametrize("model", MODELS)
def test_values_and_gradient_are_those_of_transformers(single: Any, model: str) -> None:
    ours, theirs = single[model], single[model]["transformers"]
    assert theirs["missing"] == theirs["unexpected"] == []
    assert np.abs(ours["values"] - theirs["values"]).max() <= LIMIT
    assert theirs["values"].std() > 0.01, "values that hardly vary would prove nothing"
    assert ours["figures"]["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    # transformers keeps a layer's experts as one; the others have the same names on both sides.
    common = theirs["gradients"].keys() & ours["gradients"].keys()
    assert "score.weight" in common
    assert len(common) > 20
    off = relative(
        {name: ours["gradients"][name] for name in common},
        {name: theirs["gradients"][name] for name in common},
        theirs["gradients"],
    )
    print(f"gradient {off:.1e}")
    assert off <= GRADIENT_LIMIT


@pytest.mark.parametrize("model", MODELS)
def test_a_scalar_head_over_a_causal_models_layers(single: Any, folder: Path, model: str) -> None:
    """Every weight but the head is the causal model's; the head is fresh, and what it replaces is gone."""
    causal_weights, scalar_weights = read_folder(folder / f"{model} causal"), read_folder(folder / model)
    assert scalar_weights.pop("score.weight").shape == (1, causal(model)["hidden_size"])
    assert scalar_weights.keys() <= causal_weights.keys()
    left = causal_weights.keys() - scalar_weights.keys()
    drafts = {name for name in left if name.startswith("model.layers.4.")}
    assert bool(drafts) == (model == "deepseek_v3")
    assert left - drafts == (set() if model == "llama" else {"lm_head.weight"})
    assert all((scalar_weights[name] == causal_weights[name]).all() for name in scalar_weights)


@pytest.mark.parametrize("model", MODELS)
def test_folders_of_another_model_are_refused_by_name(single: Any, model: str) -> None:
    said = single[model]["refused"]
    assert "score.weight: not in the folder" in said["a causal folder as a scalar one"]
    if model != "llama":  # whose head is tied
        assert "lm_head.weight: no weight of this model" in said["a causal folder as a scalar one"]
    faulty = said["a causal folder with a fault"]
    assert "model.norm.weight: not in the folder" in faulty
    assert "model.more.weight: no weight of this model" in faulty
    assert "lm_head" not in faulty
    assert "score.weight" not in faulty


@pytest.mark.parametrize(("name", "model"), CASES)
def test_a_layout_changes_nothing(layouts: Any, single: Any, name: str, model: str) -> None:
    theirs = single[model]
    for ours in layouts[name, model]:
        assert np.abs(ours["values"] - theirs["values"]).max() <= SCORE_LIMIT
        assert np.abs(ours["values"] - ours["frozen"]).max() <= SCORE_LIMIT
        assert ours["figures"] == pytest.approx(theirs["figures"], rel=GRADIENT_LIMIT, abs=SCORE_LIMIT)
    ours = layouts[name, model][0]
    gradients = relative(ours["gradients"], theirs["gradients"], theirs["gradients"])
    steps = {key: theirs["after"][key] - theirs["before"][key] for key in theirs["after"]}
    moved = relative(ours["after"], theirs["after"], steps)
    print(f"gradients {gradients:.1e}, of what the weights moved by {moved:.1e}")
    assert gradients <= GRADIENT_LIMIT
    assert moved <= MOVED_LIMIT


@pytest.mark.parametrize(("name", "model"), CASES)
def test_the_folder_keeps_every_bit(layouts: Any, folder: Path, name: str, model: str) -> None:
    stored = read_folder(folder / model)
    for rank in layouts[name, model]:
        assert rank["before"].keys() == stored.keys()
        for key, tensor in stored.items():
            assert np.array_equal(rank["before"][key].view(np.int32), tensor.numpy().view(np.int32)), key
