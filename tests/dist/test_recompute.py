"""What the backward pass computes again changes nothing, bit for bit: loss, gradients, routers' counts.

Every kind of recomputation is held against none, in layouts where a stage has several micro-batches in flight
whose padding differs, on models of every family, draft layers among them.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from support.models import random_dense_fields, random_fields, random_texts, samples_of
from support.ranks import free_ports, layout, run_ranks

LAYOUTS: dict[int, list[dict[str, int]]] = {
    2: [{"tp": 2, "ep": 2}, {"pp": 2}, {"pp": 2, "vpp": 2}, {"cp": 2}],
    4: [{"tp": 2, "pp": 2, "ep": 2}],
}
LATENT = [
    ["full"],
    ["core_attn"],
    ["mla_up_proj"],
    ["core_attn", "mla_up_proj"],
    ["moe"],
    ["mlp", "shared_experts"],
    ["core_attn", "mla_up_proj", "mlp", "moe", "shared_experts"],
]
"""All that torch's layers can do; `layernorm` and `moe_act` need Transformer Engine."""
RECOMPUTED = {
    "deepseek_v3": LATENT,
    "balanced": [["full"], ["moe"]],
    "qwen3_moe": [["full"], ["core_attn", "moe"]],
    "llama": [["full"], ["core_attn", "mlp"]],
}


def models() -> dict[str, dict[str, Any]]:
    """With a draft layer; with a balance loss of the router; without either, with and without experts."""
    draw = random.Random(9)
    latent = {"first_k_dense_replace": 1, "n_shared_experts": 1, "num_hidden_layers": 4}
    sparse = {"num_experts": 4, "mlp_only_layers": [], "decoder_sparse_step": 1, "router_aux_loss_coef": 0.01}
    return {
        "deepseek_v3": random_fields(draw, divisible_by=2, **latent, num_nextn_predict_layers=1),
        "balanced": random_fields(draw, divisible_by=2, **latent, aux_loss_alpha=0.01),
        "qwen3_moe": random_dense_fields(draw, "qwen3_moe", divisible_by=2, num_hidden_layers=4, **sparse),
        "llama": random_dense_fields(draw, "llama", divisible_by=2, num_hidden_layers=4),
    }


def differences(ports: list[int], layouts: list[dict[str, int]]) -> tuple[list[str], int]:
    """On every rank: each case that did not give what no recomputation gives, and in what it differs; and how
    many routers counted tokens.
    """
    found, counting = [], 0
    for port, degrees in zip(ports, layouts, strict=True):
        with layout(port, **degrees) as plan:
            for name, fields in models().items():
                if "ep" in degrees and name == "llama":
                    continue  # has no experts
                plain = backward(fields, plan, [])
                counting += sum(bool(counts.any()) for counts in plain["counted"])
                for recompute in RECOMPUTED[name]:
                    other = backward(fields, plan, recompute)
                    found += [
                        f"{degrees} {name} {recompute}: {what}"
                        for what, value in plain.items()
                        if not same(value, other[what])
                    ]
    return found, counting


def same(one: Any, other: Any) -> bool:
    """Equal to the last bit."""
    import torch

    if isinstance(one, list):
        return len(one) == len(other) and all(map(torch.equal, one, other))
    return bool(one == other)


def backward(fields: dict[str, Any], plan: Any, recompute: list[str]) -> dict[str, Any]:
    """What a backward pass gives on this rank; each stage has several micro-batches, padded unlike."""
    import torch

    from r1mega.config import Config, OptimizerConfig, Stage, TrainConfig
    from r1mega.policy import Policy

    train = TrainConfig(tokens_per_microbatch=80, recompute=recompute)
    policy = Policy(Config(stage=Stage.grpo, name="test", train=train), fields, plan)
    policy.start_training(OptimizerConfig(lr=1e-3), updates=10)
    counted: list[Any] = []
    finalize = policy.megatron_config.finalize_model_grads_func

    def count(*arguments: Any, **named: Any) -> None:
        counted.extend(buffer.clone() for buffer in buffers_of(policy, "local_tokens_per_expert"))
        finalize(*arguments, **named)

    policy.megatron_config.finalize_model_grads_func = count
    texts = random_texts(random.Random(3), fields["vocab_size"], 8 * plan.dp, longest=40)
    samples = samples_of(texts)
    generator = torch.Generator().manual_seed(0)
    values = {"weights": [torch.rand(one.answer_tokens, generator=generator) for one in samples]}
    metrics = policy.backward(samples, values, weighted, mtp_loss_weight=0.3)
    buffers = [b for chunk in policy.chunks for b in (*chunk.buffers, *chunk.expert_parallel_buffers)]
    return {
        "metrics": metrics,
        "gradients": [buffer.grad_data.clone() for buffer in buffers],
        "counted": counted,
        "router biases": [buffer.clone() for buffer in buffers_of(policy, "expert_bias")],
    }


def buffers_of(policy: Any, name: str) -> list[Any]:
    """The routers' buffers of that name, of all chunks."""
    named = [pair for chunk in policy.chunks for pair in chunk.module.named_buffers()]
    return [buffer for full, buffer in named if full.endswith(name)]


def weighted(logps_T: Any, values: Any) -> Any:
    loss = -(logps_T * values["weights"]).sum()
    return loss, {"loss": loss.detach()}


@pytest.mark.parametrize("ranks", LAYOUTS)
def test_what_is_computed_again_changes_nothing(ranks: int) -> None:
    layouts = LAYOUTS[ranks]
    by_rank = run_ranks(ranks, differences, free_ports(len(layouts)), layouts)
    assert [found for found, _ in by_rank] == [[]] * ranks
    assert any(counting for _, counting in by_rank)
