"""Random small models of the DeepSeek-V3 family, and texts for them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

Text = tuple[list[int], int]
"""A sample's tokens, and the index at which its answer starts."""


def random_fields(draw: random.Random, *, divisible_by: int = 1, **fixed: Any) -> dict[str, Any]:
    """The HF fields of a small model; every choice of the family is among what may be drawn.

    Args:
        divisible_by: what splits in a layout (layers, heads, experts, widths) is a multiple of it.
        fixed: fields that are not drawn.
    """
    layers = fixed.get("num_hidden_layers") or divisible_by * draw.choice([2, 3, 4])
    groups = draw.choice([1, 1, 2, 4])
    experts = draw.choice([4, 8]) if groups == 1 else groups * draw.choice([2, 4])
    topk_group = draw.randint(1, max(1, groups // 2))
    fields = {
        "model_type": "deepseek_v3",
        "vocab_size": 4 * draw.choice([24, 32, 57]),
        "hidden_size": draw.choice([48, 64, 80]),
        "intermediate_size": draw.choice([96, 160]),
        "moe_intermediate_size": 16 * draw.choice([1, 2, 3]),
        "num_hidden_layers": layers,
        "first_k_dense_replace": draw.randint(0, layers),
        "num_attention_heads": divisible_by * draw.choice([1, 2]),
        "q_lora_rank": draw.choice([None, 24, 40]),
        "kv_lora_rank": draw.choice([16, 32]),
        "qk_nope_head_dim": draw.choice([16, 24]),
        "qk_rope_head_dim": draw.choice([8, 16]),
        "v_head_dim": draw.choice([16, 32, 48]),
        "n_routed_experts": experts,
        "n_shared_experts": draw.choice([1, 2]),
        "n_group": groups,
        "topk_group": topk_group,
        # Megatron and DeepSeek rate a group alike where it gives two experts.
        "num_experts_per_tok": 2 * topk_group if groups > 1 else draw.randint(1, 3),
        "routed_scaling_factor": draw.choice([1.0, 2.5]),
        "num_nextn_predict_layers": draw.choice([0, 1]),
        "max_position_embeddings": 256,
        # The family's. With another, transformers keeps 1e-6 for the norms of the latents; vLLM does not.
        "rms_norm_eps": 1e-6,
        "rope_theta": draw.choice([1e4, 5e5]),
        "rope_scaling": draw.choice([None, yarn(draw)]),
        "initializer_range": draw.choice([0.02, 0.05]),
    } | fixed
    # What Megatron's router does: it normalises the weights of several experts, and never that of one.
    fields["norm_topk_prob"] = fields["num_experts_per_tok"] > 1
    from r1mega.model.deepseek_v3 import faults

    assert faults(fields) == []
    return fields


def small_moe(draw: random.Random, **fixed: Any) -> dict[str, Any]:
    """A DeepSeek-V3 of three layers, the first without experts, whose sizes halve; two of four experts."""
    given = {
        "num_hidden_layers": 3,
        "first_k_dense_replace": 1,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "rope_scaling": None,
    }
    return random_fields(draw, divisible_by=2, **(given | fixed))


def random_dense_fields(
    draw: random.Random, kind: str, *, divisible_by: int = 1, **fixed: Any
) -> dict[str, Any]:
    """The HF fields of a small model of the Llama or Qwen family, `kind` being its `model_type`."""
    layers = fixed.get("num_hidden_layers") or divisible_by * draw.choice([2, 3])
    groups = divisible_by * draw.choice([1, 2])
    fields: dict[str, Any] = {
        "model_type": kind,
        "vocab_size": 4 * draw.choice([24, 32, 57]),
        "hidden_size": draw.choice([48, 64, 96]),
        "intermediate_size": 32 * draw.choice([3, 5]),
        "num_hidden_layers": layers,
        "num_attention_heads": groups * draw.choice([1, 2, 3]),
        "num_key_value_heads": groups,
        "head_dim": draw.choice([16, 32]),
        "max_position_embeddings": 256,
        "rms_norm_eps": draw.choice([1e-5, 1e-6]),
        "rope_theta": draw.choice([1e4, 5e5]),
        "tie_word_embeddings": draw.choice([False, True]),
        "initializer_range": draw.choice([0.02, 0.05]),
    }
    if kind == "llama":
        fields["rope_scaling"] = draw.choice([None, llama3(draw)])
    if kind == "qwen3_moe":
        fields |= {
            "moe_intermediate_size": 16 * draw.choice([1, 2, 3]),
            "num_experts": draw.choice([4, 8]),
            "num_experts_per_tok": draw.choice([1, 2, 3]),
            "norm_topk_prob": draw.choice([False, True]),
            "decoder_sparse_step": draw.choice([1, 1, 2]),
            "mlp_only_layers": draw.choice([[], [0]]),
        }
        fields["norm_topk_prob"] &= fields["num_experts_per_tok"] > 1
    fields |= fixed
    if kind == "qwen2":  # whose heads are always of this size
        fields["hidden_size"] = fields["num_attention_heads"] * fields["head_dim"]
    from r1mega.model.family import family_of

    assert family_of(fields).faults(fields) == []
    return fields


def llama3(draw: random.Random) -> dict[str, Any]:
    """A stretch of the rotary positions, as Llama 3.1's config.json writes it."""
    return {
        "rope_type": "llama3",
        "factor": draw.choice([8.0, 32.0]),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def yarn(draw: random.Random) -> dict[str, Any]:
    """A stretch of the rotary positions, as DeepSeek-V3's config.json writes it."""
    return {
        "type": "yarn",
        "factor": draw.choice([4.0, 40.0]),
        "original_max_position_embeddings": draw.choice([32, 64]),
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": draw.choice([1.0, 0.707]),
        "mscale_all_dim": draw.choice([1.0, 0.707]),
    }


def random_texts(draw: random.Random, vocabulary: int, count: int, longest: int = 60) -> list[Text]:
    """Samples of random tokens, of lengths from 2 to `longest`."""
    texts = []
    for _ in range(count):
        length = draw.randint(2, longest)
        tokens = [draw.randrange(vocabulary) for _ in range(length)]
        texts.append((tokens, draw.randint(1, length - 1)))
    return texts


def random_probe(vocabulary: int, count: int = 16, tokens: int = 32) -> list[list[int]]:
    """Texts of random tokens, which reach every expert and the whole vocabulary."""
    draw = random.Random(0)
    return [[draw.randrange(vocabulary) for _ in range(tokens)] for _ in range(count)]


def samples_of(texts: list[Text]) -> list[Any]:
    """The texts as the policy takes them."""
    from r1mega.model.rows import Sample

    return [Sample(tokens, start) for tokens, start in texts]


def new_policy(fields: dict[str, Any], plan: Any, *, tokens_per_microbatch: int = 256) -> Any:
    """A policy in the open layout, with fresh weights and router biases that differ."""
    import torch

    from r1mega.config import Config, Stage, TrainConfig
    from r1mega.policy import Policy

    train = TrainConfig(tokens_per_microbatch=tokens_per_microbatch)
    policy = Policy(Config(stage=Stage.grpo, name="test", train=train), fields, plan)
    generator = torch.Generator().manual_seed(1)
    for piece in policy.pieces:
        if piece.place.name.endswith("e_score_correction_bias"):
            piece.tensor.normal_(std=0.05, generator=generator)
    return policy


def read_folder(folder: Path) -> dict[str, Any]:
    """All tensors of an HF folder, by name."""
    from safetensors.torch import load_file

    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
