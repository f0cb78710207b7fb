"""With Transformer Engine, which class stands where, and that the weight tables know every weight's name.

No kernel is called: Transformer Engine's classes are those of tests/support/te_skeleton.py, which refuse a
keyword that the pinned release does not have.
"""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
from support.models import random_dense_fields, small_moe
from support.ranks import free_ports, run_ranks

RELEASE = "2.19.0"
DRAFT = {"num_nextn_predict_layers": 1, "q_lora_rank": 24, "n_shared_experts": 1}
MODELS: dict[str, dict[str, Any]] = {
    "deepseek_v3": small_moe(random.Random(0), **DRAFT),
    "qwen3_moe": random_dense_fields(random.Random(0), "qwen3_moe", divisible_by=2, num_experts=4),
    "qwen2": random_dense_fields(random.Random(0), "qwen2", divisible_by=2),
    "llama": random_dense_fields(random.Random(0), "llama", divisible_by=2),
}
# Megatron-Core 0.16.1 marks Transformer Engine's experts wrongly where etp is above 1; 0.19.2 does not.
LAYOUTS: dict[str, dict[str, int]] = {"tp2": {"tp": 2, "etp": 1}, "pp2": {"pp": 2}}


def build(port: int) -> dict[str, Any]:
    """On two ranks: every model in every layout, in bf16 and in FP8; what each is made of."""
    os.environ["MASTER_PORT"] = str(port)
    os.environ["NVTE_ALLOW_NONDETERMINISTIC_ALGO"] = "0"
    from support.te_skeleton import install

    install(RELEASE)
    from support.ranks import layout

    found: dict[str, Any] = {}
    for number, (name, degrees) in enumerate(LAYOUTS.items()):
        with layout(port + number, **degrees) as plan:
            for model, fields in MODELS.items():
                found[f"{model} {name}"] = _parts(fields, plan, "none" if name == "pp2" else "blockwise")
    return found


def _parts(fields: dict[str, Any], plan: Any, fp8: str) -> dict[str, Any]:
    import torch

    from r1mega.config import Config, Dtype, Fp8, Stage
    from r1mega.policy import Policy

    config = Config(stage=Stage.grpo, name="test")
    config.precision.dtype, config.precision.fp8 = Dtype.bf16, Fp8(fp8)
    policy = Policy(config, fields, plan, fresh=False)
    [chunk] = policy.chunks
    return {
        "classes": {name: type(module).__name__ for name, module in chunk.module.named_modules()},
        "split": {
            name: parameter.partition_dim
            for name, parameter in chunk.module.named_parameters()
            if getattr(parameter, "tensor_model_parallel", False)
        },
        "dtypes": sorted({str(piece.tensor.dtype) for piece in policy.pieces}),
        "covered": sum(piece.tensor.numel() for piece in policy.pieces),
        "held": sum(value.numel() for value in chunk.module.state_dict().values() if torch.is_tensor(value)),
        "fp8": policy.megatron_config.fp8_recipe if policy.megatron_config.fp8 else None,
    }


@pytest.fixture(scope="module")
def built() -> list[dict[str, Any]]:
    return run_ranks(2, build, free_ports(1)[0])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_weight_has_its_row_under_transformer_engines_names(
    built: list[dict[str, Any]], model: str, layout: str
) -> None:
    # A weight without a row, or split otherwise than the row says, would have raised.
    for rank in built:
        parts = rank[f"{model} {layout}"]
        assert parts["covered"] == parts["held"] > 0


def test_each_part_of_a_mixture_of_experts_is_of_its_class(built: list[dict[str, Any]]) -> None:
    classes = built[0]["deepseek_v3 tp2"]["classes"]
    dense, sparse = "decoder.layers.0.", "decoder.layers.1."
    assert {name: classes[dense + name] for name in ("input_layernorm", "pre_mlp_layernorm")} == {
        "input_layernorm": "RMSNorm",
        "pre_mlp_layernorm": "IdentityOp",  # it is in linear_fc1
    }
    assert {name: classes[f"{dense}self_attention.{name}"] for name in _ATTENTION} == _ATTENTION
    assert classes[f"{dense}mlp.linear_fc1"] == "TELayerNormColumnParallelLinear"
    assert classes[f"{dense}mlp.linear_fc2"] == "TERowParallelLinear"
    assert {name: classes[sparse + name] for name in _EXPERTS} == _EXPERTS
    assert {name: classes[name] for name in _OUTER} == _OUTER


_ATTENTION = {
    "core_attention": "TEDotProductAttention",
    "linear_q_down_proj": "TELinear",
    "linear_q_up_proj": "TELayerNormColumnParallelLinear",
    "linear_kv_down_proj": "TELinear",
    "linear_kv_up_proj": "TELayerNormColumnParallelLinear",
    "linear_proj": "TERowParallelLinear",
}
_EXPERTS = {
    "pre_mlp_layernorm": "RMSNorm",
    "mlp.router": "TopKRouter",
    "mlp.experts": "TEGroupedMLP",
    "mlp.experts.linear_fc1": "TEColumnParallelGroupedLinear",
    "mlp.experts.linear_fc2": "TERowParallelGroupedLinear",
    "mlp.shared_experts.linear_fc1": "TEColumnParallelLinear",
    "mlp.shared_experts.linear_fc2": "TERowParallelLinear",
}
# What stays in higher precision is Megatron's own, and not Transformer Engine's.
_OUTER = {
    "embedding.word_embeddings": "VocabParallelEmbedding",
    "output_layer": "ColumnParallelLinear",
    "decoder.final_layernorm": "RMSNorm",
    "mtp.layers.0.eh_proj": "TEColumnParallelLinear",
}


def test_a_dense_model_has_its_norms_in_the_linears(built: list[dict[str, Any]]) -> None:
    classes = built[0]["qwen2 tp2"]["classes"]
    assert classes["decoder.layers.0.self_attention.linear_qkv"] == "TELayerNormColumnParallelLinear"
    assert classes["decoder.layers.0.mlp.linear_fc1"] == "TELayerNormColumnParallelLinear"
    assert classes["decoder.layers.0.input_layernorm"] == "IdentityOp"


def test_what_is_whole_on_every_rank_is_not_counted_as_split(built: list[dict[str, Any]]) -> None:
    split = built[0]["deepseek_v3 tp2"]["split"]
    down = [name for name in split if "down_proj" in name]
    assert down == []
    assert split["decoder.layers.0.self_attention.linear_proj.weight"] == 1
    assert split["decoder.layers.0.mlp.linear_fc1.weight"] == 0


def test_weights_stay_in_bf16_under_fp8(built: list[dict[str, Any]]) -> None:
    parts = built[0]["deepseek_v3 tp2"]
    assert parts["fp8"] == "blockwise"
    assert parts["dtypes"] == ["torch.bfloat16", "torch.float32"]  # the router's bias is in fp32
    assert built[0]["deepseek_v3 pp2"]["fp8"] is None
