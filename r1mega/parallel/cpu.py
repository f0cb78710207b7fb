"""Megatron-Core on CPU and gloo: everything that Megatron takes from a GPU without asking.

Megatron-Core 0.16 writes `torch.cuda.current_device()`, `device="cuda"` and `.cuda()` as if a GPU were
always there. `enable()` gives each of these its CPU meaning, in this process only; nothing of
Megatron's arithmetic is replaced. It must run before any Megatron module is imported, because several
of them copy what they need at import.

What it guarantees: a layer computes on CPU what it computes on GPU, in the same order of operations.
What it refuses: to run where CUDA is available; there it would hide the GPU.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils._device import _device_constructors

CPU = torch.device("cpu")


class _Stream:
    """A CUDA stream or event whose work is done when it is enqueued, as everything on a CPU is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def wait_stream(self, stream: object) -> None:
        pass

    def wait_event(self, event: object) -> None:
        pass

    def record_event(self, event: object = None) -> _Stream:
        return self

    def record(self, stream: object = None) -> None:
        pass

    def wait(self, stream: object = None) -> None:
        pass

    def query(self) -> bool:
        return True


def enable() -> None:
    """Make Megatron-Core run on this process's CPU; a second call changes nothing.

    Raises:
        RuntimeError: CUDA is available, or a Megatron module was imported before.
    """
    if getattr(torch.cuda.current_device, "is_cpu", False):
        return
    if torch.cuda.is_available():
        raise RuntimeError("Megatron on CPU was asked for where CUDA is available")
    early = [name for name in sys.modules if name.startswith("megatron.core.")]
    if early:
        raise RuntimeError(f"parallel.cpu.enable() must come before the import of {early[0]}")
    _replace_cuda_calls()
    _replace_cuda_devices()
    _correct_megatron()


def _replace_cuda_calls() -> None:
    stream = _Stream()

    def current_device() -> torch.device:
        return CPU

    current_device.is_cpu = True  # type: ignore[attr-defined]
    replacements: dict[str, Any] = {
        "current_device": current_device,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "Stream": _Stream,
        "Event": _Stream,
        "current_stream": lambda device=None: stream,
        "default_stream": lambda device=None: stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "manual_seed": torch.manual_seed,
        "get_rng_state": lambda device="cuda": torch.get_rng_state(),
        "set_rng_state": lambda state, device="cuda": torch.set_rng_state(state),
        "is_current_stream_capturing": lambda: False,
        "max_memory_allocated": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
    }
    for name, replacement in replacements.items():
        setattr(torch.cuda, name, replacement)
    ranges = SimpleNamespace(range_push=lambda message: None, range_pop=lambda: None)
    torch.cuda.nvtx = ranges  # type: ignore[assignment]


def _replace_cuda_devices() -> None:
    # torch remembers at first use which functions `with torch.device(...)` steers: the real ones, not ours.
    _device_constructors()
    for name in ("empty", "zeros", "ones", "full", "tensor", "arange", "rand", "randn"):
        setattr(torch, name, _on_cpu(getattr(torch, name)))
    torch.Tensor.to = _to_on_cpu(torch.Tensor.to)  # type: ignore[method-assign]
    torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign]
    torch.nn.Module.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign]
    torch.Tensor.type = _cuda_type_names(torch.Tensor.type)  # type: ignore[method-assign]


def _is_cuda(device: object) -> bool:
    return str(device).startswith("cuda") if isinstance(device, str | torch.device) else False


def _on_cpu(factory: Any) -> Any:
    @functools.wraps(factory)
    def wrapped(*args: Any, **kwargs: Any) -> torch.Tensor:
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = CPU
        # Page-locked memory serves copies to a GPU; the CPU has no use for it.
        kwargs.pop("pin_memory", None)
        return factory(*args, **kwargs)

    return wrapped


def _to_on_cpu(to: Any) -> Any:
    @functools.wraps(to)
    def wrapped(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = CPU
        return to(self, *(CPU if _is_cuda(arg) else arg for arg in args), **kwargs)

    return wrapped


def _cuda_type_names(type_of: Any) -> Any:
    """Megatron's optimizers sort parameters by the name `torch.cuda.FloatTensor`."""

    @functools.wraps(type_of)
    def wrapped(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        name = type_of(self, *args, **kwargs)
        return name.replace("torch.", "torch.cuda.") if isinstance(name, str) else name

    return wrapped


def _correct_megatron() -> None:
    """Mend the few places of Megatron-Core that only a GPU with Transformer Engine gets right."""
    from megatron.core import jit

    # torch.compile would start a C++ compiler for functions of three lines.
    jit.disable_jit_fuser()

    import megatron.core.extensions.transformer_engine  # noqa: F401  imports without TE, and must not count as TE
    from megatron.core.tensor_parallel import random
    from megatron.core.transformer import multi_latent_attention
    from megatron.core.transformer.moe import moe_utils, token_dispatcher

    multi_latent_attention.HAVE_TE = False
    if not hasattr(moe_utils, "te_general_gemm"):
        moe_utils.te_general_gemm = None
    random._get_cuda_rng_state = lambda device="cuda", clone=False, graph_safe=False: torch.get_rng_state()
    random._set_cuda_rng_state = lambda state, device=-1, graph_safe=False: torch.set_rng_state(state)
    token_dispatcher.maybe_move_tensor_to_cpu = _split_sizes_to_numpy


def _split_sizes_to_numpy(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
    """Megatron converts split sizes only where they lie on a GPU; gloo wants plain integers too."""
    return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor
