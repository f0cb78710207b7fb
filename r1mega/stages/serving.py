"""The engines of a run, started for its model and ended with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from r1mega.config import Config
from r1mega.policy import Policy
from r1mega.rollout.engines import Engines
from r1mega.rollout.host import EngineSettings
from r1mega.rollout.placement import seats
from r1mega.rollout.transport import backend_for
from r1mega.weights import fp8


@contextmanager
def open_engines(config: Config, policy: Policy) -> Iterator[Engines]:
    """Start the engines in the background; they have no weights until the first hand-over."""
    folder = config.folder / "engine"
    dtype = {"fp32": "float32", "bf16": "bfloat16"}[config.precision.dtype]
    rollout = config.rollout
    if dist.get_rank() == 0:
        folder.mkdir(exist_ok=True)
        fields = policy.family.checkpoint_config(policy.hf, dtype)
        if rollout.fp8_weights:
            fields["quantization_config"] = fp8.CONFIG
        (folder / "config.json").write_text(json.dumps(fields, indent=1))
    dist.barrier()
    settings = EngineSettings(
        folder=str(folder),
        dtype=dtype,
        seed=config.seed,
        max_context_tokens=rollout.max_context_tokens,
        concurrent_sequences=rollout.concurrent_sequences,
        kv_cache_bytes=rollout.kv_cache_bytes,
        tensor_parallel=rollout.tensor_parallel,
        expert_parallel=rollout.expert_parallel > 1,
        backend=backend_for(config),
        fp8_weights=rollout.fp8_weights,
        cores=(0,) * (rollout.threads_per_worker * rollout.tensor_parallel),
        gpus=(),
        log=str(folder / "engine.log"),
    )
    engines = Engines(
        settings,
        seats(config),
        start_timeout_s=rollout.start_timeout_s,
        answer_timeout_s=rollout.answer_timeout_s,
    )
    try:
        yield engines
    finally:
        engines.close()
