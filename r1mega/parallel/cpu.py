"""Megatron-Core on CPU and gloo: everything that Megatron takes from a GPU without asking.

Megatron-Core 0.16 writes `torch.cuda.current_device()`, `device="cuda"` and `.cuda()` as if a GPU were
always there. `enable()` gives each of these its CPU meaning, in this process only; nothing of
Megatron's arithmetic is replaced. It must run before any Megatron module is imported, because several
of them copy what they need at import.

Where gloo is not NCCL, messages go another way to the same end: pipeline stages' are told apart by their
direction and waited for by who receives them, and collectives of unequal parts become exchanges of all
with all. It takes the pipeline's messages to be of any length (`variable_seq_lengths`) and not overlapped.

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
import torch.distributed as dist
from torch import Tensor
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
    def wrapped(*args: Any, **kwargs: Any) -> Tensor:
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = CPU
        # Page-locked memory serves copies to a GPU; the CPU has no use for it.
        kwargs.pop("pin_memory", None)
        return factory(*args, **kwargs)

    return wrapped


def _to_on_cpu(to: Any) -> Any:
    @functools.wraps(to)
    def wrapped(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = CPU
        return to(self, *(CPU if _is_cuda(arg) else arg for arg in args), **kwargs)

    return wrapped


def _cuda_type_names(type_of: Any) -> Any:
    """Megatron's optimizers sort parameters by the name `torch.cuda.FloatTensor`."""

    @functools.wraps(type_of)
    def wrapped(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        name = type_of(self, *args, **kwargs)
        return name.replace("torch.", "torch.cuda.") if isinstance(name, str) else name

    return wrapped


def _correct_megatron() -> None:
    """Mend the few places of Megatron-Core that only a GPU with Transformer Engine gets right."""
    from megatron.core import jit

    # torch.compile would start a C++ compiler for functions of three lines.
    jit.disable_jit_fuser()

    import megatron.core.extensions.transformer_engine  # noqa: F401  imports without TE, and must not count as TE
    from megatron.core.pipeline_parallel import p2p_communication
    from megatron.core.tensor_parallel import mappings, random
    from megatron.core.transformer import multi_latent_attention
    from megatron.core.transformer.moe import moe_utils, token_dispatcher

    multi_latent_attention.HAVE_TE = False
    if not hasattr(moe_utils, "te_general_gemm"):
        moe_utils.te_general_gemm = None
    random._get_cuda_rng_state = lambda device="cuda", clone=False, graph_safe=False: torch.get_rng_state()
    random._set_cuda_rng_state = lambda state, device=-1, graph_safe=False: torch.set_rng_state(state)
    token_dispatcher.maybe_move_tensor_to_cpu = _split_sizes_to_numpy
    p2p_communication.P2PCommunicator._communicate_shapes = _send_and_receive_shapes
    p2p_communication._batched_p2p_ops = _receive
    mappings._gather_along_first_dim = _unequal(mappings._gather_along_first_dim, _gather_unequal)
    mappings._reduce_scatter_along_first_dim = _unequal(
        mappings._reduce_scatter_along_first_dim, _reduce_scatter_unequal
    )


def _split_sizes_to_numpy(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
    """Megatron converts split sizes only where they lie on a GPU; gloo wants plain integers too."""
    return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor


_TO_NEXT, _TO_PREVIOUS = 1, 2
"""Tags. Of two pipeline stages, each is the other's next and previous; gloo matches what has the same tag by
order alone, so an activation without one would be taken for a gradient."""

_under_way: dict[int, list[Any]] = {}
"""By tag, the last message sent: its shape and itself.

Gloo delivers a message when its receiver asks for it. A stage that waited for that could wait for a stage
which waits for it, so a message is waited for only where the next one the same way would pass it.
"""


def _send(tensor: Tensor | None, peer: int, group: dist.ProcessGroup, tag: int) -> None:
    if tensor is None:
        return
    for message in _under_way.pop(tag, []):
        message.wait()
    parts = torch.tensor(tensor.shape), tensor.detach()
    _under_way[tag] = [dist.isend(part, peer, group=group, tag=tag) for part in parts]


def _send_and_receive_shapes(
    self: Any,
    tensor_send_next: Tensor | None,
    tensor_send_prev: Tensor | None,
    recv_prev: bool,
    recv_next: bool,
) -> tuple[list[int], list[int]]:
    """Send to both neighbours all that goes to them; the shapes [T, 1, H] of what comes from them."""
    _send(tensor_send_next, self.next_rank, self.pp_group, _TO_NEXT)
    _send(tensor_send_prev, self.prev_rank, self.pp_group, _TO_PREVIOUS)
    from_prev, from_next = (torch.zeros(3, dtype=torch.int64) for _ in range(2))
    if recv_prev:
        dist.recv(from_prev, self.prev_rank, group=self.pp_group, tag=_TO_NEXT)
    if recv_next:
        dist.recv(from_next, self.next_rank, group=self.pp_group, tag=_TO_PREVIOUS)
    return from_prev.tolist(), from_next.tolist()


def _receive(
    *,
    tensor_recv_prev: Tensor | None,
    tensor_recv_next: Tensor | None,
    group: dist.ProcessGroup,
    prev_pipeline_rank: int,
    next_pipeline_rank: int,
    **sent: Tensor | None,
) -> list[Any]:
    """Begin to receive from both neighbours; what goes to them was sent with its shape."""
    coming = (
        (tensor_recv_prev, prev_pipeline_rank, _TO_NEXT),
        (tensor_recv_next, next_pipeline_rank, _TO_PREVIOUS),
    )
    return [
        dist.irecv(tensor, peer, group=group, tag=tag) for tensor, peer, tag in coming if tensor is not None
    ]


def _unequal(equal: Any, unequal: Any) -> Any:
    """Megatron's collective, but `unequal` where ranks have parts of different sizes; gloo refuses those."""

    @functools.wraps(equal)
    def wrapped(
        part: Tensor, group: Any, sizes: list[int] | None = None, use_global_buffer: bool = False
    ) -> Tensor:
        if sizes is None or group.size() == 1:
            return equal(part, group, None, use_global_buffer)
        return unequal(part, group, sizes)

    return wrapped


def _gather_unequal(part: Tensor, group: dist.ProcessGroup, sizes: list[int]) -> Tensor:
    """All ranks' parts along the first dimension, rank r's of `sizes[r]`: each sends its own to all."""
    whole = part.new_empty(sum(sizes), *part.shape[1:])
    copies = part.repeat(group.size(), *[1] * (part.dim() - 1))
    dist.all_to_all_single(whole, copies, sizes, [len(part)] * group.size(), group=group)
    return whole


def _reduce_scatter_unequal(whole: Tensor, group: dist.ProcessGroup, sizes: list[int]) -> Tensor:
    """This rank's part, of `sizes[rank]` along the first dimension, of the sum of all ranks' wholes."""
    size = sizes[group.rank()]
    terms = whole.new_empty(group.size() * size, *whole.shape[1:])
    dist.all_to_all_single(terms, whole.contiguous(), [size] * group.size(), sizes, group=group)
    return terms.unflatten(0, (group.size(), size)).sum(0)
