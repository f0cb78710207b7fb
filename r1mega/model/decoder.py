"""What the families' layers have in common: rows of their weight tables and fields of Megatron's config.

Names are those inside a layer; a family puts them under its own (`r1mega.weights.table.under`). Where
Transformer Engine fuses a norm into the linear after it, the norm has a second, `fused` row.
"""

from __future__ import annotations

from typing import Any

from r1mega.model import scalar
from r1mega.parallel.plan import ModelShape
from r1mega.weights.table import Row, under


def norm_rows(ours: str, fused_into: str, theirs: str, size: int) -> list[Row]:
    """A norm's weight, by its own name and by that of the linear it may be fused into."""
    fused = Row(fused_into + "layer_norm_weight", (theirs,), ((size,),), fused=True)
    return [Row(ours, (theirs,), ((size,),)), fused]


def swiglu_rows(hidden: int, width: int) -> list[Row]:
    """A gated feed-forward block."""
    gate_and_up = ("gate_proj.weight", "up_proj.weight")
    return [
        Row("linear_fc1.weight", gate_and_up, ((width, hidden),) * 2, split=0),
        Row("linear_fc2.weight", ("down_proj.weight",), ((hidden, width),), split=1),
    ]


def expert_rows(hidden: int, width: int, experts: int) -> list[Row]:
    """Routed experts: one module each, and one weight each of Transformer Engine's grouped linears."""
    gate_and_up = ("experts.{e}.gate_proj.weight", "experts.{e}.up_proj.weight")
    down = ("experts.{e}.down_proj.weight",)
    fc1 = Row("experts.local_experts.{e}.linear_fc1.weight", gate_and_up, ((width, hidden),) * 2, split=0)
    fc2 = Row("experts.local_experts.{e}.linear_fc2.weight", down, ((hidden, width),), split=1)
    grouped = [
        Row("experts.linear_fc1.weight{e}", fc1.hf, fc1.shapes, split=0, fused=True),
        Row("experts.linear_fc2.weight{e}", fc2.hf, fc2.shapes, split=1, fused=True),
    ]
    return under([fc1, fc2, *grouped], "", "", experts=experts)


def attention_rows(hf: dict[str, Any], *, bias: bool, head_norms: bool) -> list[Row]:
    """Grouped-query attention. Megatron lays queries, key and value of one group side by side.

    Args:
        bias: queries, keys and values have one each.
        head_norms: each head's query and key is normalised.
    """
    hidden, heads, groups, size = (
        hf["hidden_size"],
        hf["num_attention_heads"],
        hf["num_key_value_heads"],
        hf["head_dim"],
    )
    names = ("q_proj", "k_proj", "v_proj")
    widths = (heads * size, groups * size, groups * size)
    weights, biases = (tuple(f"{name}.{kind}" for name in names) for kind in ("weight", "bias"))
    rows = [
        Row("linear_qkv.weight", weights, tuple((width, hidden) for width in widths), split=0, runs=groups),
        Row("linear_proj.weight", ("o_proj.weight",), ((hidden, heads * size),), split=1),
    ]
    if bias:
        shapes = tuple((width,) for width in widths)
        rows.append(Row("linear_qkv.bias", biases, shapes, split=0, runs=groups))
    if head_norms:
        rows += [
            Row("q_layernorm.weight", ("q_norm.weight",), ((size,),)),
            Row("k_layernorm.weight", ("k_norm.weight",), ((size,),)),
        ]
    return rows


def layer_rows(hidden: int, attention: list[Row]) -> list[Row]:
    """What every layer has but its feed-forward block: attention between two norms."""
    return [
        *norm_rows("input_layernorm.weight", "self_attention.linear_qkv.", "input_layernorm.weight", hidden),
        *under(attention, "self_attention.", "self_attn."),
    ]


def dense_rows(hidden: int, width: int) -> list[Row]:
    """The second norm and the feed-forward block of a dense layer."""
    norm = norm_rows("pre_mlp_layernorm.weight", "mlp.linear_fc1.", "post_attention_layernorm.weight", hidden)
    return [*norm, *under(swiglu_rows(hidden, width), "mlp.", "mlp.")]


def outer_rows(hf: dict[str, Any]) -> list[Row]:
    """The embedding, the last norm and the output layer, which may be the embedding again, or a scalar's."""
    hidden, words = hf["hidden_size"], hf["vocab_size"]
    embedding = "model.embed_tokens.weight"
    output = embedding if hf["tie_word_embeddings"] else "lm_head.weight"
    vocabulary = Row("output_layer.weight", (output,), ((words, hidden),), split=0)
    return [
        Row("embedding.word_embeddings.weight", (embedding,), ((words, hidden),), split=0),
        Row("decoder.final_layernorm.weight", ("model.norm.weight",), ((hidden,),)),
        scalar.head_row(hidden) if scalar.is_scalar(hf) else vocabulary,
    ]


def tied_copies(hf: dict[str, Any]) -> dict[str, str]:
    """The head, where it is the embedding again."""
    return {"lm_head.weight": "model.embed_tokens.weight"} if _tied(hf) else {}


def _tied(hf: dict[str, Any]) -> bool:
    return hf["tie_word_embeddings"] and not scalar.is_scalar(hf)


def dense_shape(hf: dict[str, Any]) -> ModelShape:
    """The numbers that a layout of a dense model with grouped-query attention must divide."""
    return ModelShape(
        layers=hf["num_hidden_layers"],
        draft_layers=0,
        attention_heads=hf["num_attention_heads"],
        key_value_heads=hf["num_key_value_heads"],
        vocabulary=hf["vocab_size"],
        experts=0,
        feed_forward_sizes=(hf["intermediate_size"],),
        expert_size=0,
        head_size=hf["head_dim"],
    )


def read_heads(hf: dict[str, Any]) -> dict[str, Any]:
    """The fields with the key-value heads and the head size that follow from others filled in."""
    heads = hf["num_attention_heads"]
    return hf | {
        "num_key_value_heads": hf["num_key_value_heads"] or heads,
        "head_dim": hf["head_dim"] or hf["hidden_size"] // heads,
    }


def head_faults(hf: dict[str, Any], where: str) -> list[str]:
    """What is wrong between the fields of grouped-query attention."""
    heads, groups = hf["num_attention_heads"], hf["num_key_value_heads"] or hf["num_attention_heads"]
    faults = []
    if type(groups) is not int or groups < 1 or heads % groups:
        faults.append(
            f"{where}.num_key_value_heads: was {groups}; it must divide num_attention_heads = {heads}"
        )
    if hf["head_dim"] is None and hf["hidden_size"] % heads:
        faults.append(
            f"{where}.num_attention_heads: was {heads}; without head_dim it must divide hidden_size ="
            f" {hf['hidden_size']}"
        )
    return faults


def gqa_config(hf: dict[str, Any]) -> dict[str, Any]:
    """Fields of Megatron's config of a decoder with RMSNorm, SwiGLU and grouped-query attention."""
    return {
        **decoder_config(hf),
        "num_query_groups": hf["num_key_value_heads"],
        "kv_channels": hf["head_dim"],
    }


def decoder_config(hf: dict[str, Any]) -> dict[str, Any]:
    """Fields of Megatron's config that every family sets alike."""
    import torch

    std = hf["initializer_range"]
    init = torch.nn.init.normal_
    return {
        "num_layers": hf["num_hidden_layers"],
        "hidden_size": hf["hidden_size"],
        "num_attention_heads": hf["num_attention_heads"],
        "ffn_hidden_size": hf["intermediate_size"],
        "init_method": lambda weight: init(weight, std=std),
        "output_layer_init_method": lambda weight: init(weight, std=std),
        "normalization": "RMSNorm",
        "layernorm_epsilon": hf["rms_norm_eps"],
        "activation_func": torch.nn.functional.silu,
        "gated_linear_unit": True,
        "add_bias_linear": False,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
    }


def model_fields(hf: dict[str, Any]) -> dict[str, Any]:
    """What Megatron's GPTModel is told besides its config."""
    return {
        "vocab_size": hf["vocab_size"],
        "max_sequence_length": hf["max_position_embeddings"],
        "position_embedding_type": "rope",
        "share_embeddings_and_output_weights": _tied(hf),
        # Latent attention takes its rotary base from the config instead.
        "rotary_base": hf["rope_theta"],
    }
