"""The Qwen family (Qwen2 and 2.5, Qwen3, Qwen3-MoE): HF config fields to Megatron's, and its weights.

A decoder with RMSNorm, grouped-query attention and SwiGLU. Qwen2 gives queries, keys and values a
bias; Qwen3 normalises each head's query and key instead; Qwen3-MoE has experts in every layer (or every
so many), chosen by softmax, with neither a shared expert nor a router's bias.

Importing this module needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from r1mega.model import decoder, scalar
from r1mega.model.fields import Fields
from r1mega.parallel.plan import ModelShape
from r1mega.weights.table import Row, under

if TYPE_CHECKING:
    from megatron.core.transformer import TransformerConfig

MODEL_TYPES = {
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
ARCHITECTURES = scalar.architectures(*MODEL_TYPES.values())

REQUIRED: dict[str, type] = {
    "vocab_size": int,
    "hidden_size": int,
    "intermediate_size": int,
    "num_hidden_layers": int,
    "num_attention_heads": int,
    "max_position_embeddings": int,
}
DEFAULTS: dict[str, Any] = {
    "num_key_value_heads": None,
    "head_dim": None,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
}
LEAST = dict.fromkeys(("rms_norm_eps", "rope_theta", "initializer_range"), 0)
WINDOW = frozenset({"max_window_layers", "sliding_window", "layer_types"})
"""Say nothing where `use_sliding_window` is false, as it must be."""
FIXED = {"hidden_act": "silu", "use_sliding_window": False}

FIELDS = {
    "qwen2": Fields(
        family="Qwen2",
        required=REQUIRED,
        defaults=DEFAULTS,
        fixed=FIXED | {"use_mrope": False},
        least=LEAST,
        ignored=WINDOW,
    ),
    "qwen3": Fields(
        family="Qwen3",
        required=REQUIRED,
        defaults=DEFAULTS | {"head_dim": 128},
        fixed=FIXED | {"attention_bias": False},
        least=LEAST,
        ignored=WINDOW,
    ),
    "qwen3_moe": Fields(
        family="Qwen3-MoE",
        required=REQUIRED | {"moe_intermediate_size": int, "num_experts": int, "num_experts_per_tok": int},
        defaults=DEFAULTS
        | {
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "norm_topk_prob": False,
            "router_aux_loss_coef": 0.0,
        },
        fixed=FIXED | {"attention_bias": False},
        least=LEAST | {"decoder_sparse_step": 1, "router_aux_loss_coef": 0},
        ignored=WINDOW | {"output_router_logits"},
    ),
}


def model_type(hf: dict[str, Any]) -> str:
    """Which of the family's models it is."""
    named = hf.get("model_type")
    return named if named in MODEL_TYPES else _by_architecture(hf)


def _by_architecture(hf: dict[str, Any]) -> str:
    [architecture] = hf["architectures"]
    return next(kind for kind, name in MODEL_TYPES.items() if architecture in scalar.architectures(name))


def read(hf: dict[str, Any]) -> dict[str, Any]:
    """The HF fields with defaults filled in."""
    return decoder.read_heads(FIELDS[model_type(hf)].read(hf))


def faults(hf: dict[str, Any], where: str = "model.hf") -> list[str]:
    """What is wrong with the HF fields, all at once; empty where nothing is."""
    fields = FIELDS[model_type(hf)]
    found = fields.faults(hf, where)
    if found:
        return found
    full = fields.read(hf)
    found = decoder.head_faults(full, where)
    heads, size = full["num_attention_heads"], full["head_dim"]
    if fields is FIELDS["qwen2"] and size is not None and size * heads != full["hidden_size"]:
        found.append(
            f"{where}.head_dim: was {size}; Qwen2's heads are hidden_size / num_attention_heads ="
            f" {full['hidden_size'] / heads:g} wide, and vLLM takes no other"
        )
    if full["rope_scaling"]:
        found.append(
            f"{where}.rope_scaling: was {full['rope_scaling']}; must be null: this version stretches no Qwen"
        )
    if "num_experts" in full and full["num_experts_per_tok"] > full["num_experts"]:
        found.append(
            f"{where}.num_experts_per_tok: was {full['num_experts_per_tok']};"
            f" there are num_experts = {full['num_experts']}"
        )
    if full.get("num_experts_per_tok") == 1 and full["norm_topk_prob"]:
        found.append(
            f"{where}.norm_topk_prob: was True; with num_experts_per_tok = 1 it must be False: a weight"
            " normalised to itself is always 1, which Megatron's router does not compute"
        )
    return found


def sparse_layers(hf: dict[str, Any]) -> tuple[int, ...]:
    """The layers that have experts; none in a dense model."""
    if "num_experts" not in hf:
        return ()
    return tuple(
        layer
        for layer in range(hf["num_hidden_layers"])
        if layer not in hf["mlp_only_layers"] and (layer + 1) % hf["decoder_sparse_step"] == 0
    )


def shape(hf: dict[str, Any]) -> ModelShape:
    """The numbers that a layout must divide."""
    hf = read(hf)
    if not sparse_layers(hf):
        return decoder.dense_shape(hf)
    dense = len(sparse_layers(hf)) < hf["num_hidden_layers"]
    return ModelShape(
        layers=hf["num_hidden_layers"],
        draft_layers=0,
        attention_heads=hf["num_attention_heads"],
        key_value_heads=hf["num_key_value_heads"],
        vocabulary=hf["vocab_size"],
        experts=hf["num_experts"],
        feed_forward_sizes=(hf["intermediate_size"],) if dense else (),
        expert_size=hf["moe_intermediate_size"],
        head_size=hf["head_dim"],
    )


def checkpoint_config(hf: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The config.json of an export: every field that transformers and vLLM each look for."""
    kind = model_type(hf)
    return read(hf) | {**scalar.named(hf, MODEL_TYPES[kind]), "model_type": kind, "torch_dtype": dtype}


def megatron_config(hf: dict[str, Any], **run_fields: Any) -> TransformerConfig:
    """Megatron's config of the model; `run_fields` (dtype, parallel sizes, ...) come from the run."""
    from megatron.core.transformer import TransformerConfig

    kind, hf = model_type(hf), read(hf)
    return TransformerConfig(
        **decoder.gqa_config(hf),
        **(_moe_config(hf) if sparse_layers(hf) else {}),
        add_qkv_bias=kind == "qwen2",
        qk_layernorm=kind != "qwen2",
        **run_fields,
    )


def _moe_config(hf: dict[str, Any]) -> dict[str, Any]:
    sparse = sparse_layers(hf)
    return {
        "num_moe_experts": hf["num_experts"],
        "moe_ffn_hidden_size": hf["moe_intermediate_size"],
        "moe_layer_freq": [int(layer in sparse) for layer in range(hf["num_hidden_layers"])],
        "moe_router_topk": hf["num_experts_per_tok"],
        "moe_router_score_function": "softmax",
        # A softmax over the chosen few is a softmax over all, normalised to those few.
        "moe_router_pre_softmax": not hf["norm_topk_prob"],
        "moe_router_dtype": "fp32",
        "moe_router_load_balancing_type": "aux_loss" if hf["router_aux_loss_coef"] else "none",
        "moe_aux_loss_coeff": hf["router_aux_loss_coef"],
    }


def gpt_fields(hf: dict[str, Any]) -> dict[str, Any]:
    """What Megatron's GPTModel is told besides its config."""
    return decoder.model_fields(read(hf))


def weight_table(hf: dict[str, Any]) -> list[Row]:
    """Every weight of the family; see `r1mega.model.decoder` for the rows of a layer."""
    kind, hf = model_type(hf), read(hf)
    hidden, layers, sparse = hf["hidden_size"], range(hf["num_hidden_layers"]), sparse_layers(hf)
    attention = decoder.attention_rows(hf, bias=kind == "qwen2", head_norms=kind != "qwen2")
    ours, theirs = "decoder.layers.{l}.", "model.layers.{l}."
    return [
        *decoder.outer_rows(hf),
        *under(decoder.layer_rows(hidden, attention), ours, theirs, layers=tuple(layers)),
        *under(
            decoder.dense_rows(hidden, hf["intermediate_size"]),
            ours,
            theirs,
            layers=tuple(layer for layer in layers if layer not in sparse),
        ),
        *under(_moe_rows(hf) if sparse else [], ours, theirs, layers=sparse),
    ]


def copies(hf: dict[str, Any]) -> dict[str, str]:
    """HF's names under which a checkpoint may repeat a weight, and the name of the weight repeated."""
    return decoder.tied_copies(read(hf))


def _moe_rows(hf: dict[str, Any]) -> list[Row]:
    """The second norm, the router and the experts."""
    hidden, experts = hf["hidden_size"], hf["num_experts"]
    mlp = [
        Row("router.weight", ("gate.weight",), ((experts, hidden),)),
        *decoder.expert_rows(hidden, hf["moe_intermediate_size"], experts),
    ]
    return [
        Row("pre_mlp_layernorm.weight", ("post_attention_layernorm.weight",), ((hidden,),)),
        *under(mlp, "mlp.", "mlp."),
    ]
