"""On one GPU: changed weights reach an engine on the trainer's own GPU, through vLLM's `ipc`.

`make gpu-test`, in an environment of locks/cu13.txt. Nobody has run it yet: it is written against vLLM's
sources, and tests/dist/test_vllm_transport.py runs all of it that a CPU can.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from support.gpu import ON_GPU
from support.handover import engine_config, message, move_weights
from support.models import random_dense_fields, random_probe
from support.ranks import free_ports, plan_of, run_ranks

# Models of this kind differ by up to 0.04 between bf16 and fp32 (transformers, on a CPU), and by 2 and more
# from themselves an update before.
LIMIT = 0.1
COURSES = 3
SIZES = {"hidden_size": 256, "head_dim": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {},
    # All experts are taken, so that rounding cannot send a token to another.
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 4, "moe_intermediate_size": 128},
}

pytestmark = ON_GPU


def hand_over(port: int, folder: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """One rank with one engine: ever new weights, then weights that are not sent, then sound ones again."""
    from r1mega.config import Backend, Dtype
    from r1mega.parallel.groups import close_groups, open_groups

    os.environ["MASTER_PORT"] = str(port)
    plan = plan_of()
    open_groups(plan, gpu=True, seed=0, timeout_s=300)
    from r1mega.policy import Policy
    from r1mega.stages.handover import Handover
    from r1mega.stages.serving import open_engines

    config = engine_config(folder, replicas=1)
    config.cluster.backend, config.precision.dtype = Backend.cuda, Dtype.bf16
    config.handover.max_abs_dlogp = LIMIT
    policy = Policy(config, fields, plan)
    with open_engines(config, policy) as engines:
        handover = Handover(config, policy, engines, random_probe(fields["vocab_size"]))
        differences = []
        for course in range(COURSES):
            move_weights(policy, course)
            differences.append(handover.run()["handover/max_abs_dlogp"])
        send = handover.way.send
        handover.way.send = lambda version: []  # type: ignore[method-assign]
        move_weights(policy, COURSES)
        stale = message(handover.run)
        handover.way.send = send  # type: ignore[method-assign]
        again = message(handover.run)
    close_groups()
    return {"differences": differences, "stale": stale, "again": again}


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_engine_on_the_trainers_gpu_scores_as_the_trainer(tmp_path: Path, kind: str) -> None:
    fields = random_dense_fields(
        random.Random(0), kind, num_hidden_layers=2, tie_word_embeddings=False, **SIZES | FAMILIES[kind]
    )
    [found] = run_ranks(1, hand_over, free_ports(1)[0], tmp_path, fields)
    print(kind, [f"{difference:.1e}" for difference in found["differences"]])
    assert len(found["differences"]) == COURSES
    assert max(found["differences"]) <= LIMIT
    assert "engine 0 scores the probe otherwise than the trainer" in found["stale"]
    assert found["again"] == ""
