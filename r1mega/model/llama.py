"""The Llama family (Llama 3, SmolLM2): HF config fields to Megatron's, and the table of its weights.

A dense decoder: RMSNorm, grouped-query attention, SwiGLU; embeddings may be tied. Rotary positions may
be stretched as Llama 3.1 does, by any factor; the frequencies it starts and ends at are Megatron's own.

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

MODEL_TYPE = "llama"
CAUSAL = "LlamaForCausalLM"
ARCHITECTURES = scalar.architectures(CAUSAL)

FIELDS = Fields(
    family="Llama",
    required={
        "vocab_size": int,
        "hidden_size": int,
        "intermediate_size": int,
        "num_hidden_layers": int,
        "num_attention_heads": int,
        "max_position_embeddings": int,
    },
    # As in transformers' LlamaConfig.
    defaults={
        "num_key_value_heads": None,
        "head_dim": None,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
    },
    fixed={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
    least=dict.fromkeys(("rms_norm_eps", "rope_theta", "initializer_range"), 0),
    ignored=frozenset({"is_llama_config", "rope_interleaved", "transformers.js_config"}),
)

STRETCH = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Llama 3.1's, which Megatron has as constants."""


def read(hf: dict[str, Any]) -> dict[str, Any]:
    """The HF fields with defaults filled in."""
    return decoder.read_heads(FIELDS.read(hf))


def faults(hf: dict[str, Any], where: str = "model.hf") -> list[str]:
    """What is wrong with the HF fields, all at once; empty where nothing is."""
    found = FIELDS.faults(hf, where)
    if found:
        return found
    full = FIELDS.read(hf)
    found = decoder.head_faults(full, where)
    scaling = full["rope_scaling"]
    if scaling:
        kind = scaling.get("rope_type", scaling.get("type"))
        other = {name: scaling.get(name) for name, value in STRETCH.items() if scaling.get(name) != value}
        if kind != "llama3" or other:
            found.append(
                f"{where}.rope_scaling: was {scaling}; must be null, or rope_type llama3 with {STRETCH}"
            )
    return found


def shape(hf: dict[str, Any]) -> ModelShape:
    """The numbers that a layout must divide."""
    return decoder.dense_shape(read(hf))


def checkpoint_config(hf: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The config.json of an export: every field that transformers and vLLM each look for."""
    return read(hf) | {**scalar.named(hf, CAUSAL), "model_type": MODEL_TYPE, "torch_dtype": dtype}


def megatron_config(hf: dict[str, Any], **run_fields: Any) -> TransformerConfig:
    """Megatron's config of the model; `run_fields` (dtype, parallel sizes, ...) come from the run."""
    from megatron.core.transformer import TransformerConfig

    return TransformerConfig(**decoder.gqa_config(read(hf)), **run_fields)


def gpt_fields(hf: dict[str, Any]) -> dict[str, Any]:
    """What Megatron's GPTModel is told besides its config."""
    hf = read(hf)
    fields = decoder.model_fields(hf)
    if hf["rope_scaling"]:
        fields |= {"rope_scaling": True, "rope_scaling_factor": hf["rope_scaling"]["factor"]}
    return fields


def weight_table(hf: dict[str, Any]) -> list[Row]:
    """Every weight of the family; see `r1mega.model.decoder` for the rows of a layer."""
    hf = read(hf)
    hidden, layers = hf["hidden_size"], tuple(range(hf["num_hidden_layers"]))
    layer = [
        *decoder.layer_rows(hidden, decoder.attention_rows(hf, bias=False, head_norms=False)),
        *decoder.dense_rows(hidden, hf["intermediate_size"]),
    ]
    return [
        *decoder.outer_rows(hf),
        *under(layer, "decoder.layers.{l}.", "model.layers.{l}.", layers=layers),
    ]


def copies(hf: dict[str, Any]) -> dict[str, str]:
    """HF's names under which a checkpoint may repeat a weight, and the name of the weight repeated."""
    return decoder.tied_copies(read(hf))
