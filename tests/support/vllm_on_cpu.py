"""vLLM's `ipc` and `nccl` weight transfer on a CPU: both ends of vLLM are real, only CUDA's calls are not.

What NCCL would carry goes through the group's own store, what CUDA would map through shared memory.
Rendezvous, ranks, order, packing, chunks and loading are vLLM's.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

GPUS = "TEST_GPUS"
"""Names of this process's GPUs that are none."""
DIES_AT = "TEST_DIES_AT"
"""A file; where it is there, an engine that is to receive weights dies."""


class ByStore:
    """In place of a PyNcclCommunicator; the group is vLLM's."""

    def __init__(self, group: Any, device: Any) -> None:
        self.group = group

    def broadcast(self, tensor: Any, src: int, stream: Any = None) -> None:
        if self.group.rank != src and Path(os.environ[DIES_AT]).exists():
            os.kill(os.getpid(), signal.SIGKILL)
        sent = tensor.clone() if self.group.rank == src else None
        tensor.copy_(self.group.broadcast_obj(sent, src))

    def destroy(self) -> None:
        pass


def shared(tensor: Any) -> tuple[Any, Any]:
    """In place of `reduce_tensor`: how another process maps the tensor, seven arguments as CUDA's begin."""
    tensor.share_memory_()
    handle = tensor.untyped_storage()._share_filename_cpu_()
    return None, (tuple(tensor.shape), tensor.dtype, None, None, None, None, 0, handle)


def mapped(*arguments: Any) -> Any:
    """In place of `rebuild_cuda_tensor`."""
    import torch

    shape, dtype, *_, handle = arguments
    storage = torch.UntypedStorage._new_shared_filename_cpu(*handle)
    return torch.empty(0, dtype=dtype).set_(storage).view(shape)


class _Stream:
    def __init__(self, **named: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass


def install(gpus: tuple[str, ...]) -> None:
    """Make this process's vLLM transfer weights by the above."""
    import torch
    from vllm.distributed.device_communicators import pynccl
    from vllm.distributed.weight_transfer import ipc_engine, packed_tensor

    os.environ[GPUS] = ",".join(gpus)
    pynccl.PyNcclCommunicator = ByStore
    ipc_engine.reduce_tensor = packed_tensor.reduce_tensor = shared
    torch.multiprocessing.reductions.rebuild_cuda_tensor = ipc_engine.rebuild_cuda_tensor = mapped
    torch.accelerator.current_device_index = lambda: 0
    torch.accelerator.synchronize = lambda device=None: None
    stand_ins = {
        "Stream": _Stream,
        "current_stream": lambda device=None: _Stream(),
        "stream": lambda stream: contextlib.nullcontext(),
        "synchronize": lambda device=None: None,
        "ipc_collect": lambda: None,
        "get_device_properties": lambda device: SimpleNamespace(uuid=gpus[device or 0]),
    }
    for name, stand_in in stand_ins.items():
        setattr(torch.cuda, name, stand_in)


def main(pipe: Any, settings: Any) -> None:
    """In place of an engine's own: the same, on a CPU."""
    from r1mega.rollout import host

    real = host._Engine

    def engine(settings: Any) -> Any:
        install(gpus)
        return real(settings)

    gpus = settings.gpus
    host._Engine = engine  # the environment is set before vLLM is imported
    host.main(pipe, replace(settings, gpus=()))
