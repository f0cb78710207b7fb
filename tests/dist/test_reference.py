"""The Megatron model of every family scores as transformers' does, whatever its config says."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from support.models import Text, new_policy, random_dense_fields, random_fields, random_texts, samples_of
from support.ranks import free_ports, layout, run_ranks

LIMIT = 1e-4
DRAWS = 8
OTHER_DRAWS = 4


def drawn() -> list[dict[str, Any]]:
    """Random configs, and one at each end of what is rarely drawn."""
    draw = random.Random(3)
    fields = [random_fields(draw) for _ in range(DRAWS)]
    dense = random_fields(draw, num_hidden_layers=2, first_k_dense_replace=2)
    sparse = random_fields(draw, first_k_dense_replace=0, num_nextn_predict_layers=1, q_lora_rank=None)
    kinds = [kind for kind in ("llama", "qwen2", "qwen3", "qwen3_moe") for _ in range(OTHER_DRAWS)]
    return [*fields, dense, sparse, *(random_dense_fields(draw, kind) for kind in kinds)]


def score_both(port: int, configs: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """On one rank: for each config, how far the two sides' log-probs differ, and what HF did not find."""
    found = []
    with layout(port) as plan:
        for number, fields in enumerate(configs):
            policy = new_policy(fields, plan)
            texts = random_texts(random.Random(number), fields["vocab_size"], 12)
            policy.export(folder / str(number))
            ours = policy.score(samples_of(texts), 1.0)
            found.append(compare_with_transformers(folder / str(number), texts, ours))
    return found


def compare_with_transformers(folder: Path, texts: list[Text], ours: list[Any]) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM

    model, loading = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    worst = 0.0
    for (tokens, start), logps in zip(texts, ours, strict=True):
        with torch.no_grad():
            all_logps = model.eval()(torch.tensor([tokens])).logits[0].log_softmax(-1)
        theirs = all_logps[:-1].gather(1, torch.tensor(tokens[1:])[:, None])[start - 1 :, 0]
        assert theirs.shape == logps.shape
        worst = max(worst, (theirs - logps).abs().max().item())
    return {
        "worst": worst,
        "missing": sorted(loading["missing_keys"]),
        "unexpected": sorted(loading["unexpected_keys"]),
        "spread": all_logps.std().item(),
    }


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory,
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    configs = drawn()
    [found] = run_ranks(1, score_both, free_ports(1)[0], configs, tmp_path_factory.mktemp("hf"))
    return list(zip(configs, found, strict=True))


def test_log_probs_are_those_of_transformers(results: list[Any]) -> None:
    print("worst |dlogp|", [f"{found['worst']:.1e}" for _, found in results])
    for fields, found in results:
        assert found["worst"] <= LIMIT, fields
        assert found["spread"] > 0.01, "log-probs that hardly vary would prove nothing"


def test_transformers_finds_every_weight_and_no_other(results: list[Any]) -> None:
    for fields, found in results:
        assert found["missing"] == []
        # The layers of multi-token prediction follow the last layer; transformers has no use for them.
        draft = f"model.layers.{fields['num_hidden_layers']}."
        assert all(name.startswith(draft) for name in found["unexpected"])
        assert bool(found["unexpected"]) <= bool(fields.get("num_nextn_predict_layers"))


def test_the_draws_reach_every_choice(results: list[Any]) -> None:
    """A seed that happened to draw no group-limited router would test less than this file says."""
    configs = [fields for fields, _ in results if fields["model_type"] == "deepseek_v3"]
    for name in (
        "q_lora_rank",
        "rope_scaling",
        "num_nextn_predict_layers",
        "first_k_dense_replace",
    ):
        assert {bool(fields[name]) for fields in configs} == {True, False}, name
    assert {fields["n_shared_experts"] for fields in configs} == {1, 2}
    assert {fields["n_group"] > 1 for fields in configs} == {True, False}
    assert {fields["num_experts_per_tok"] > 1 for fields in configs} == {True, False}
    assert any(fields["topk_group"] > 1 for fields in configs)
    assert any(fields["n_group"] > fields["topk_group"] for fields in configs)
    heads = {
        fields["qk_nope_head_dim"] + fields["qk_rope_head_dim"] != fields["v_head_dim"] for fields in configs
    }
    assert True in heads
    others = [fields for fields, _ in results if fields["model_type"] != "deepseek_v3"]
    assert {fields["model_type"] for fields in others} == {"llama", "qwen2", "qwen3", "qwen3_moe"}
    assert {fields["tie_word_embeddings"] for fields in others} == {True, False}
    sparse = [fields for fields in others if fields["model_type"] == "qwen3_moe"]
    assert {fields["norm_topk_prob"] for fields in sparse} == {True, False}
    scalings = [fields["rope_scaling"] for fields in configs if fields["rope_scaling"]]
    assert any(scaling["mscale"] != scaling["mscale_all_dim"] for scaling in scalings)
