"""The engines' layouts are vLLM's: its ParallelConfig takes that of every run, and splits layers alike."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vllm.config import ParallelConfig
from vllm.distributed.utils import get_pp_indices

from r1mega.__main__ import configurations
from r1mega.compose import compose
from r1mega.config import GENERATING, Backend, Config
from r1mega.model.family import family_of
from r1mega.parallel.plan import RolloutPlan
from r1mega.planner.run import Run, read_run

COMPOSED = partial(compose, configurations())
RUNS = sorted(path.stem for path in (configurations() / "run").glob("*.yaml"))


def generates_on_gpus(config: Config) -> bool:
    return config.stage in GENERATING and config.cluster.backend is Backend.cuda


NAMES = [name for name in RUNS if generates_on_gpus(COMPOSED([f"run={name}"]))]


def of_node(run: Run, node: int) -> Any:
    """vLLM's description of an engine, as the process on one of its machines would have it."""
    rollout, gpus = run.topology.rollout, run.config.cluster.gpus_per_machine
    assert gpus is not None
    return ParallelConfig(
        tensor_parallel_size=rollout.tp,
        pipeline_parallel_size=rollout.pp,
        enable_expert_parallel=rollout.ep > 1,
        is_moe_model=family_of(run.hf).shape(run.hf).experts > 0,
        distributed_executor_backend="mp",
        nnodes=-(-rollout.workers_per_replica // gpus),
        node_rank=node,
    )


@pytest.mark.parametrize("name", NAMES)
def test_vllm_takes_the_layout_of_every_run(name: str) -> None:
    run = read_run(COMPOSED([f"run={name}"]), COMPOSED)
    rollout, gpus = run.topology.rollout, run.config.cluster.gpus_per_machine
    nodes = of_node(run, 0).nnodes
    for node in range(nodes):
        theirs = of_node(run, node)
        assert theirs.world_size == rollout.workers_per_replica
        assert theirs.data_parallel_size == 1
        # On every machine of an engine as many workers, and of a stage all on one machine.
        assert theirs.local_world_size == min(rollout.workers_per_replica, gpus or 0)
        assert theirs.local_world_size % rollout.tp == 0
        # vLLM deals experts out over the tensor-parallel workers, or over none.
        dealt = theirs.tensor_parallel_size if theirs.enable_expert_parallel else 1
        assert dealt == rollout.ep


def test_engines_of_one_machine_and_of_several_are_among_them() -> None:
    of_several = {name for name in NAMES if COMPOSED([f"run={name}"]).rollout.pipeline_parallel > 1}
    assert {"r1_zero", "r1_zero_671b", "r1_all_scenario_rl", "r1_reject"} <= of_several
    assert {"zero_qwen3_235b_a22b", "zero_qwen2_5_7b", "zero_llama_70b"} <= {*NAMES} - of_several


@given(layers=st.integers(1, 100), pp=st.integers(1, 16))
def test_layers_are_split_over_an_engines_stages_as_vllm_splits_them(layers: int, pp: int) -> None:
    plan = RolloutPlan(replicas=1, tp=1, pp=min(pp, layers), ep=1)
    for stage in range(plan.pp):
        held = plan.layers_of(stage, layers)
        assert (held.start, held.stop) == get_pp_indices(layers, stage, plan.pp)
