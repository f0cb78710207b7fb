"""Opens the process groups of a plan: torch.distributed first, then Megatron's own on top."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist

from r1mega.parallel.plan import Plan


def open_groups(plan: Plan, *, gpu: bool, seed: int, timeout_s: float) -> None:
    """Join the other ranks and open Megatron's groups; every rank of the plan must call it.

    Args:
        seed: of weight initialisation; Megatron derives a different one for each model-parallel rank.
        timeout_s: a collective that takes longer raises.

    Raises:
        RuntimeError: GPUs were asked for where there is none.
    """
    if not gpu:
        from r1mega.parallel import cpu

        cpu.enable()
    elif not torch.cuda.is_available():
        raise RuntimeError("cluster.backend: was cuda; this rank sees no CUDA GPU, so it must be cpu")
    else:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

    dist.init_process_group("nccl" if gpu else "gloo", timeout=timedelta(seconds=timeout_s))
    open_model_groups(plan, gloo_too=gpu, timeout_s=timeout_s)
    torch.manual_seed(seed)
    model_parallel_cuda_manual_seed(seed)


def open_model_groups(plan: Plan, *, gloo_too: bool, timeout_s: float) -> None:
    """Megatron's groups of the plan, over the ranks that torch.distributed has.

    Args:
        gloo_too: besides each group of ranks that share data one on gloo, for what is on the CPU.
    """
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=plan.tp,
        pipeline_model_parallel_size=plan.pp,
        virtual_pipeline_model_parallel_size=plan.vpp if plan.vpp > 1 else None,
        context_parallel_size=plan.cp,
        expert_model_parallel_size=plan.ep,
        expert_tensor_parallel_size=plan.etp,
        distributed_timeout_minutes=max(1, round(timeout_s / 60)),
        create_gloo_process_groups=gloo_too,
    )


def device() -> torch.device:
    """Where this rank computes: its GPU where the groups were opened for GPUs, else the CPU."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if dist.get_backend() == "nccl"
        else torch.device("cpu")
    )


def close_groups() -> None:
    """Leave Megatron's groups and torch.distributed."""
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()
