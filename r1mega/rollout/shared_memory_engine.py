"""vLLM's end of the shared-memory hand-over: a weight-transfer engine for CPU workers.

vLLM's layerwise reload does not survive the CPU's packed weights, so this engine unpacks the experts,
calls the model's own loader and packs them again. What it took in, and which parameters
the loader reached, it keeps for the trainer to compare (`receipt`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.utils import replace_parameter

from r1mega.weights.pieces import Place
from r1mega.weights.shared_memory import map_tensors, receipt_of
from r1mega.weights.source import TensorMeta


@dataclass
class InitInfo(WeightTransferInitInfo):
    """Where the weights lie, which they are, and which boxes of them one rank writes."""

    path: str
    tensors: list[list[Any]]
    places: list[dict[str, Any]]


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """One update: the policy's version."""

    version: int
    names: list[str] = field(default_factory=list)
    """Tensors to load; all where empty."""


class SharedMemoryEngine(WeightTransferEngine[InitInfo, UpdateInfo]):
    """Loads whole HF tensors from shared memory into this worker's model."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo
    supports_draft_weight_update = False

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        metas = [
            TensorMeta(name, getattr(torch, dtype), tuple(shape)) for name, dtype, shape in init_info.tensors
        ]
        self.tensors = map_tensors(init_info.path, metas)
        self.places = [_place(fields) for fields in init_info.places]
        self.version = -1
        self.checksums: dict[str, int] = {}
        self.loaded: set[str] = set()

    def start_weight_update(self) -> None:
        self.checksums, self.loaded = {}, set()
        for layer, experts in _packed_experts(self.model):
            _unpack(layer, experts.moe_config.intermediate_size_per_partition)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        # The base class would wait for an accelerator.
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: UpdateInfo) -> None:
        wanted = update_info.names or list(self.tensors)
        self.loaded |= self.model.load_weights((name, self.tensors[name]) for name in wanted)
        self.checksums |= receipt_of(
            self.tensors, [place for place in self.places if place.name in set(wanted)]
        )
        self.version = update_info.version

    def finish_weight_update(self) -> None:
        for layer, experts in _packed_experts(self.model):
            experts.process_weights_after_loading(layer)

    def receipt(self) -> dict[str, Any]:
        """The version held, a checksum a place, and the parameters that no weight has reached."""
        parameters = {name for name, _ in self.model.named_parameters()}
        return {
            "version": self.version,
            "checksums": self.checksums,
            "not_loaded": sorted(parameters - self.loaded),
        }

    def shutdown(self) -> None:
        self.tensors = {}


def _packed_experts(model: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, Any]]:
    """The MoE layers whose expert weights the CPU kernel keeps in a layout of its own."""
    for layer in model.modules():
        kernel = getattr(getattr(layer, "quant_method", None), "moe_kernel", None)
        if kernel is not None:
            yield layer, kernel.fused_experts


def _unpack(layer: Any, expert_size: int) -> None:
    """Give the layer expert weights of the shapes that its loader fills."""
    experts, _, hidden = layer.w13_weight.shape
    replace_parameter(layer, "w13_weight", layer.w13_weight.new_empty(experts, 2 * expert_size, hidden))
    replace_parameter(layer, "w2_weight", layer.w2_weight.new_empty(experts, hidden, expert_size))


def _place(fields: dict[str, Any]) -> Place:
    """A place that went through JSON-like values, where tuples become lists."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    return Place(**values)
