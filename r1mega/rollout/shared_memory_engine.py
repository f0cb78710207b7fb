"""vLLM's end of the shared-memory hand-over: a weight-transfer engine for CPU workers.

At the start it finds out where the model's own loader puts every weight (`tracing`), moves the model's
parameters into a file that the trainer's ranks can map, and says what lies where. From then on an update
is the trainer's writing and this worker's reading back: it takes the checksum of every box from the
parameters themselves, as the kernels will read them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.utils import replace_parameter

from r1mega.rollout.tracing import Stretch, trace
from r1mega.weights.memory import SharedMemory, aligned, checksum
from r1mega.weights.slots import Slot
from r1mega.weights.source import TensorMeta


@dataclass
class InitInfo(WeightTransferInitInfo):
    """The HF tensors that will come: name, dtype and shape of each."""

    tensors: list[list[Any]]


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """One update: the policy's version."""

    version: int


class SharedMemoryEngine(WeightTransferEngine[InitInfo, UpdateInfo]):
    """Keeps this worker's parameters where the trainer's ranks write."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo
    supports_draft_weight_update = False

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        metas = [
            TensorMeta(name, getattr(torch, dtype), tuple(shape)) for name, dtype, shape in init_info.tensors
        ]
        stretches = trace(self.model, self._load, metas)
        self.memory, bases = _move(self.model)
        self.slots = [_slot(self.model, stretch, bases) for stretch in stretches]
        self.empty = _empty(self.model, stretches)
        self.expected: list[Slot] = []
        self.version = -1
        self.checksums: list[int] = []

    def _load(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        """The model's own loader, around which the experts are taken out of the kernel's layout."""
        experts = list(_packed_experts(self.model))
        for layer, kernel in experts:
            _unpack(layer, kernel.moe_config.intermediate_size_per_partition)
        self.model.load_weights(weights)
        for layer, kernel in experts:
            kernel.process_weights_after_loading(layer)

    def layout(self) -> dict[str, Any]:
        """Where this worker's memory is, what lies in it, and the rows of parameters that nothing fills."""
        return {"path": self.memory.path, "slots": self.slots, "empty": self.empty}

    def expect(self, slots: list[Slot]) -> None:
        """What each update will write, in the order in which the receipt answers for it."""
        self.expected = slots

    def start_weight_update(self) -> None:
        self.checksums = []

    def update_weights(self, update_info: dict[str, Any]) -> None:
        # The base class would wait for an accelerator.
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """The weights are here already; what is left is to say what they are."""
        memory = self.memory.bytes
        self.checksums = [checksum(*(view for _, view in slot.views(memory))) for slot in self.expected]
        self.version = update_info.version

    def finish_weight_update(self) -> None:
        pass

    def receipt(self) -> dict[str, Any]:
        """The version held, and the checksum of every expected box."""
        return {"version": self.version, "checksums": self.checksums}

    def shutdown(self) -> None:
        pass


def _move(model: torch.nn.Module) -> tuple[SharedMemory, dict[str, int]]:
    """Give every parameter a place in one shared file; returns it and where each begins, in bytes."""
    bases, size = {}, 0
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        bases[name] = size
        size += aligned(parameter.nbytes)
    memory = SharedMemory.create(size)
    for name, parameter in parameters.items():
        place = memory.bytes[bases[name] : bases[name] + parameter.nbytes]
        parameter.data = place.view(parameter.dtype).view(parameter.shape).zero_()
    return memory, bases


def _slot(model: torch.nn.Module, stretch: Stretch, bases: dict[str, int]) -> Slot:
    parameter = model.get_parameter(stretch.parameter)
    return Slot(
        name=stretch.name,
        start=stretch.start,
        size=stretch.size,
        dtype=str(parameter.dtype).removeprefix("torch."),
        base=bases[stretch.parameter],
        width=parameter.shape[-1] if parameter.dim() > 1 else 1,
        row=stretch.row,
        column=0,
        block=stretch.block,
    )


def _empty(model: torch.nn.Module, stretches: list[Stretch]) -> list[str]:
    """Parameters with rows that no weight fills, where padding does not account for them.

    vLLM pads the vocabulary and a kernel pads its experts; both leave zeros there.
    """
    padded = {
        name
        for owner, layer in model.named_modules()
        if hasattr(layer, "org_vocab_size_padded") or hasattr(layer, "moe_config")
        for name in (f"{owner}.{own}" for own, _ in layer.named_parameters())
    }
    filled = {name: 0 for name, _ in model.named_parameters()}
    for stretch in stretches:
        filled[stretch.parameter] += stretch.rows
    return [
        name
        for name, parameter in model.named_parameters()
        if filled[name] == 0 or (name not in padded and filled[name] < _rows(parameter))
    ]


def _rows(parameter: Tensor) -> int:
    return prod(parameter.shape[:-1]) if parameter.dim() > 1 else parameter.shape[0]


def _packed_experts(model: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, Any]]:
    """The MoE layers whose expert weights the CPU kernel keeps in a layout of its own."""
    for layer in model.modules():
        kernel = getattr(getattr(layer, "quant_method", None), "moe_kernel", None)
        if kernel is not None:
            yield layer, kernel.fused_experts


def _unpack(layer: Any, expert_size: int) -> None:
    """Give the layer expert weights of the shapes that its loader fills."""
    experts, _, hidden = layer.w13_weight.shape
    replace_parameter(layer, "w13_weight", layer.w13_weight.new_zeros(experts, 2 * expert_size, hidden))
    replace_parameter(layer, "w2_weight", layer.w2_weight.new_zeros(experts, hidden, expert_size))
