"""The config.json of published models, as far as it says what the model is: to plan without the weights.

By the name of the folder that `huggingface-cli download` makes. Each is held to the published number of
parameters by `tests/unit/test_planner.py`. Where the folder is there, its own config.json is read instead.
"""

from __future__ import annotations

from typing import Any

_DEEPSEEK_V3: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_nextn_predict_layers": 1,
    "num_attention_heads": 128,
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "routed_scaling_factor": 2.5,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "qk_nope_head_dim": 128,
    "n_group": 8,
    "topk_group": 4,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "norm_topk_prob": True,
    "max_position_embeddings": 163840,
    "rms_norm_eps": 1e-6,
}


def _qwen2(hidden: int, width: int, layers: int, heads: int, groups: int, **others: Any) -> dict[str, Any]:
    fields = {
        "model_type": "qwen2",
        "vocab_size": 152064,
        "hidden_size": hidden,
        "intermediate_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "max_position_embeddings": 131072,
    }
    return fields | others


def _qwen3_moe(
    hidden: int, width: int, expert: int, layers: int, heads: int, **others: Any
) -> dict[str, Any]:
    fields = {
        "model_type": "qwen3_moe",
        "vocab_size": 151936,
        "hidden_size": hidden,
        "intermediate_size": width,
        "moe_intermediate_size": expert,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
        "max_position_embeddings": 40960,
    }
    return fields | others


def _llama3(hidden: int, width: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": hidden,
        "intermediate_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
    }


_QWEN_1_5B = _qwen2(1536, 8960, 28, 12, 2, vocab_size=151936, tie_word_embeddings=True)
_LLAMA_70B = _llama3(8192, 28672, 80, 64)
_QWEN_7B = _qwen2(3584, 18944, 28, 28, 4)

PUBLISHED: dict[str, dict[str, Any]] = {
    "DeepSeek-V3-Base": _DEEPSEEK_V3,
    "DeepSeek-V3": _DEEPSEEK_V3,
    "DeepSeek-R1": _DEEPSEEK_V3,
    "DeepSeek-R1-Zero": _DEEPSEEK_V3,
    "Qwen2.5-1.5B": _QWEN_1_5B,
    "Qwen2.5-Math-1.5B": _QWEN_1_5B | {"max_position_embeddings": 4096},
    "Qwen2.5-7B": _QWEN_7B,
    "Qwen2.5-Math-7B": _QWEN_7B | {"max_position_embeddings": 4096},
    "Qwen2.5-14B": _qwen2(5120, 13824, 48, 40, 8),
    "Qwen2.5-32B": _qwen2(5120, 27648, 64, 40, 8),
    "Qwen3-30B-A3B-Base": _qwen3_moe(2048, 6144, 768, 48, 32, max_position_embeddings=32768),
    "Qwen3-30B-A3B": _qwen3_moe(2048, 6144, 768, 48, 32),
    "Qwen3-235B-A22B": _qwen3_moe(4096, 12288, 1536, 94, 64),
    "Llama-3.1-8B": _llama3(4096, 14336, 32, 32),
    "Llama-3.1-70B": _LLAMA_70B,
    "Llama-3.3-70B-Instruct": _LLAMA_70B,
    "SmolLM2-135M-Instruct": {
        "model_type": "llama",
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
}
