"""What the tests of tests/gpu have in common: their models, one rank that trains, and the figures they print.

Nobody has run them on a GPU yet. All that needs none is run by tests/unit/test_te_gpu_parts.py.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from support.command import environment
from support.models import random_fields, random_texts, samples_of
from support.runs import OURS

ON_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT RUN: there is no CUDA GPU here"),
]

SMALL_MOE = {
    "vocab_size": 512,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "moe_intermediate_size": 256,
    "num_hidden_layers": 4,
    "first_k_dense_replace": 1,
    "num_attention_heads": 4,
    "q_lora_rank": 128,
    "kv_lora_rank": 128,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "num_nextn_predict_layers": 0,
    "routed_scaling_factor": 1.0,
    "rope_scaling": None,
    "initializer_range": 0.02,
    "max_position_embeddings": 4096,
}
"""Every width is whole blocks of every recipe."""
ALL_EXPERTS = SMALL_MOE | {"num_hidden_layers": 2, "n_routed_experts": 4, "num_experts_per_tok": 4}
"""All experts are taken, so that rounding cannot send a token to another."""
TINY_RUN = (
    "run=cpu_zero",
    "parallel=single",
    "rollout.replicas=1",
    "grpo.rollouts=3",
    "pretrain.updates=200",
)
ONE_BILLION_RUN = (
    *("run=cpu_zero", "model=deepseek_v3_1b", "parallel=single", "rollout.replicas=1", "grpo.rollouts=3"),
    *("pretrain.updates=20", "pretrain.optimizer.lr=3e-4", "grpo.optimizer.lr=1e-6"),
)
ON_ONE_GPU = (
    *("cluster=h100", "precision=bf16", "rollout.placement=shared", "eval.questions=32"),
    # Models of this kind differ by up to 0.04 between bf16 and fp32; the same limit as in test_handover.
    "handover.max_abs_dlogp=0.1",
)
PEAK_TFLOPS = {"H100": 989.4, "H200": 989.4, "B200": 2250.0}
"""Dense bf16, of the SXM boards, as NVIDIA's data sheets have it."""


def report(test: str, **figures: Any) -> None:
    """Print the figures, with what they were measured on, as one line of JSON."""
    made_with = {name: version(name) for name in ("torch", "megatron-core", "transformer-engine")}
    print(json.dumps({"test": test, "gpu": torch.cuda.get_device_name()} | made_with | figures), flush=True)


def fields_of(sizes: dict[str, Any]) -> dict[str, Any]:
    """The HF fields of one of this module's models."""
    return random_fields(random.Random(0), **sizes)


def policy_of(fields: dict[str, Any], *, on_gpu: bool, fp8: str = "none", tokens: int = 1024) -> Any:
    """One rank's policy: by Transformer Engine in bf16 on its GPU, or of torch's layers in fp32 on a CPU.

    Weights are drawn by their names, so the two have the same. Called once in a process.
    """
    if not on_gpu:
        sys.modules["transformer_engine"] = None  # type: ignore[assignment]  # as where it is not installed
    os.environ["NVTE_ALLOW_NONDETERMINISTIC_ALGO"] = "0"
    from dataclasses import replace

    from r1mega.config import Backend, Config, Dtype, Fp8, Stage, TrainConfig
    from r1mega.model.precision import tokens_multiple
    from r1mega.parallel.groups import open_groups
    from support.ranks import plan_of

    plan = replace(plan_of(), linear_multiple=tokens_multiple(Fp8(fp8), 1))
    open_groups(plan, gpu=on_gpu, seed=0, timeout_s=300)
    from r1mega.policy import Policy

    config = Config(stage=Stage.pretrain, name="test", train=TrainConfig(tokens_per_microbatch=tokens))
    config.cluster.backend = Backend.cuda if on_gpu else Backend.cpu
    config.precision.dtype, config.precision.fp8 = Dtype.bf16 if on_gpu else Dtype.fp32, Fp8(fp8)
    return Policy(config, fields, plan)


def one_backward(port: int, fields: dict[str, Any], on_gpu: bool) -> dict[str, Any]:
    """Loss and gradients of fresh weights on random texts; gradients by HF name, in fp32, flattened."""
    os.environ["MASTER_PORT"] = str(port)
    policy = policy_of(fields, on_gpu=on_gpu)
    from r1mega.config import OptimizerConfig
    from r1mega.stages.pretrain import cross_entropy, token_weights

    policy.start_training(OptimizerConfig(lr=1e-3), 10)
    samples = samples_of(random_texts(random.Random(1), fields["vocab_size"], 16))
    metrics = policy.backward(samples, {"weights": token_weights(samples)}, cross_entropy, 0.0)
    with torch.no_grad():
        for chunk in policy.chunks:
            for parameter in chunk.parameters():
                parameter.copy_(parameter.main_grad)
    parts: dict[str, list[torch.Tensor]] = defaultdict(list)
    for piece in policy.pieces:
        if not piece.place.name.endswith("e_score_correction_bias"):
            parts[piece.place.name].append(piece.tensor.float().cpu().flatten())
    gradients = {name: torch.cat(tensors) for name, tensors in parts.items()}
    return {"loss": metrics["loss"], "gradients": gradients}


def furthest(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> tuple[float, str]:
    """The largest distance of two tensors of one name, over the second's length, and its name."""
    return max(
        (float((tensor - theirs[name]).norm() / theirs[name].norm().clamp(min=1e-12)), name)
        for name, tensor in ours.items()
    )


def learn(port: int, fields: dict[str, Any], fp8: str, updates: int, on_gpu: bool = True) -> list[float]:
    """The loss of each of so many updates, on texts that can be learnt: a token is the sum of two."""
    os.environ["MASTER_PORT"] = str(port)
    policy = policy_of(fields, on_gpu=on_gpu, fp8=fp8)
    from r1mega.config import OptimizerConfig
    from r1mega.stages.pretrain import cross_entropy, token_weights

    policy.start_training(OptimizerConfig(lr=1e-3, min_lr_ratio=0.1, warmup_updates=10), updates)
    draw, losses = random.Random(2), []
    for _ in range(updates):
        samples = samples_of([(_sums(draw, fields["vocab_size"]), 2) for _ in range(64)])
        weights = {"weights": token_weights(samples)}
        losses.append(policy.update(samples, weights, cross_entropy, 0.0)["loss"])
    return losses


def _sums(draw: random.Random, vocabulary: int, tokens: int = 64) -> list[int]:
    text = [draw.randrange(vocabulary), draw.randrange(vocabulary)]
    while len(text) < tokens:
        text.append((text[-1] + text[-2]) % vocabulary)
    return text


def time_updates(port: int, fields: dict[str, Any], fp8: str, tokens: int, rows: int) -> dict[str, float]:
    """Seconds and model FLOPs of an update on rows of one sample each; the mean of five, after two."""
    os.environ["MASTER_PORT"] = str(port)
    policy = policy_of(fields, on_gpu=True, fp8=fp8, tokens=tokens)
    from r1mega.config import OptimizerConfig
    from r1mega.stages.pretrain import cross_entropy, token_weights

    policy.start_training(OptimizerConfig(lr=1e-4), 10)
    draw = random.Random(3)
    texts = [([draw.randrange(fields["vocab_size"]) for _ in range(tokens)], 1) for _ in range(rows)]
    samples = samples_of(texts)
    values, seconds = {"weights": token_weights(samples)}, []
    for _ in range(7):
        torch.cuda.synchronize()
        began = time.monotonic()
        policy.update(samples, values, cross_entropy, 0.0)
        torch.cuda.synchronize()
        seconds.append(time.monotonic() - began)
    took = sum(seconds[2:]) / len(seconds[2:])
    return {
        "seconds": took,
        "tflops": training_flops(fields, [tokens] * rows) / took / 1e12,
        "tokens_per_s": rows * tokens / took,
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 1024**3,
    }


def training_flops(fields: dict[str, Any], lengths: Sequence[int]) -> float:
    """Of forward and backward of a DeepSeek-V3: 6 a weight at work and token, and attention's products.

    The embedding is looked up and not multiplied; attention is causal, so half of a square. As PaLM counts
    (arXiv 2204.02311, appendix B), recomputation not counted.
    """
    attention = fields["num_hidden_layers"] * fields["num_attention_heads"]
    attention *= fields["qk_nope_head_dim"] + fields["qk_rope_head_dim"] + fields["v_head_dim"]
    squares = sum(length**2 for length in lengths)
    return 6 * weights_at_work(fields) * sum(lengths) + 6 * attention * squares / 2


def weights_at_work(fields: dict[str, Any]) -> int:
    """Weights that a token is multiplied with; draft layers are left out."""
    from r1mega.model.deepseek_v3 import weight_table
    from r1mega.weights.table import Served

    return sum(
        sum(map(prod, row.shapes))
        * (1 if row.layers is None else len(row.layers))
        * (fields["num_experts_per_tok"] if row.experts else 1)
        for row in weight_table(fields)
        if not row.fused
        and row.served is not Served.draft
        and len(row.shapes[0]) > 1
        and not row.megatron.startswith("embedding.")
    )


def whole_run(folder: Path, name: str, *overrides: str, **env: str) -> tuple[Any, dict[str, Any], list[Any]]:
    """The real command on one GPU: the process as it ended, its summary, and a row for each rollout."""
    command = [*OURS, *overrides, *ON_ONE_GPU, f"name={name}"]
    done = subprocess.run(
        command, cwd=folder, env=environment(**env), capture_output=True, text=True, timeout=1500
    )
    if done.returncode:
        return done, {}, []
    ended = folder / "runs" / name
    rows = [json.loads(line) for line in (ended / "metrics.jsonl").read_text().splitlines()]
    return done, json.loads((ended / "summary.json").read_text()), rows
