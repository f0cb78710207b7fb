"""Which part of which HF tensor each parameter on this rank is.

A `Piece` is a view into a Megatron parameter together with its place in the HF tensor. All that moves
weights (hand-over, export, load, proof) is written over pieces, so a layout is understood in one place:
here. The pieces of all ranks cover every HF tensor exactly; `cover` checks it and names what does not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod
from typing import Any

import torch
from torch import Tensor

from r1mega.weights.table import Row, Served, find


@dataclass(frozen=True, slots=True)
class Place:
    """A box in an HF tensor: where it starts and how far it reaches, in elements."""

    name: str
    shape: tuple[int, ...]
    """Shape of the whole tensor."""
    start: tuple[int, ...]
    size: tuple[int, ...]
    dtype: str
    served: Served

    @property
    def bytes(self) -> int:
        """Size of the box."""
        return prod(self.size) * getattr(torch, self.dtype).itemsize

    def of(self, whole: Tensor) -> Tensor:
        """The box's view of the whole tensor."""
        for dim, (start, size) in enumerate(zip(self.start, self.size, strict=True)):
            whole = whole.narrow(dim, start, size)
        return whole

    def __str__(self) -> str:
        box = ", ".join(f"{a}:{a + n}" for a, n in zip(self.start, self.size, strict=True))
        return f"{self.name}[{box}]"


@dataclass(frozen=True, slots=True)
class Piece:
    """A place and the part of this rank's parameter that belongs there."""

    place: Place
    tensor: Tensor


@dataclass(frozen=True, slots=True)
class Shard:
    """Which shard this rank holds of what its layout splits."""

    tp_rank: int
    tp: int
    etp_rank: int
    etp: int
    ep_rank: int
    ep: int

    @classmethod
    def here(cls) -> Shard:
        """This rank's shard, from Megatron's open groups."""
        from megatron.core import parallel_state as ps

        return cls(
            tp_rank=ps.get_tensor_model_parallel_rank(),
            tp=ps.get_tensor_model_parallel_world_size(),
            etp_rank=ps.get_expert_tensor_parallel_rank(),
            etp=ps.get_expert_tensor_parallel_world_size(),
            ep_rank=ps.get_expert_model_parallel_rank(),
            ep=ps.get_expert_model_parallel_world_size(),
        )


def local_pieces(chunks: Iterable[torch.nn.Module], table: Sequence[Row], shard: Shard) -> list[Piece]:
    """This rank's weights, as pieces of HF tensors; their tensors are views of the parameters.

    Args:
        chunks: this rank's GPTModels, one a virtual pipeline stage.

    Raises:
        KeyError: a weight that the table does not know, or knows twice.
    """
    return [
        piece
        for chunk in chunks
        for name, tensor in _named_weights(chunk)
        for piece in _pieces_of(_global_name(name, chunk, shard), tensor, table, shard)
    ]


def _named_weights(chunk: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    # Transformer Engine puts its scaling state beside the weights, under names of this ending.
    for name, value in chunk.state_dict(keep_vars=True).items():
        if torch.is_tensor(value) and not name.endswith("_extra_state"):
            yield name, value


def _global_name(name: str, chunk: torch.nn.Module, shard: Shard) -> str:
    """The name with layers and experts counted over the whole model, in Megatron-Core 0.16.1's words."""
    parts = name.replace(".mtp_model_layer.", ".transformer_layer.").split(".")
    if parts[:2] == ["decoder", "layers"]:
        layers: Any = chunk.decoder.layers  # type: ignore[union-attr]
        parts[2] = str(layers[int(parts[2])].layer_number - 1)
    if "experts" in parts:
        _count_expert(parts, chunk, shard)
    return ".".join(parts)


def _count_expert(parts: list[str], chunk: torch.nn.Module, shard: Shard) -> None:
    first = shard.ep_rank * (chunk.config.num_moe_experts // shard.ep)  # type: ignore[union-attr,operator]
    if "local_experts" in parts:
        at = parts.index("local_experts") + 1
        parts[at] = str(first + int(parts[at]))
    elif parts[-1].startswith("weight"):
        parts[-1] = f"weight{first + int(parts[-1].removeprefix('weight'))}"


def _pieces_of(name: str, tensor: Tensor, table: Sequence[Row], shard: Shard) -> Iterator[Piece]:
    row, hf_names = find(table, name)
    rank, ranks = (shard.etp_rank, shard.etp) if row.experts else (shard.tp_rank, shard.tp)
    parts = list(row.parts(hf_names, rank, ranks))
    held = (sum(part.size[0] for part in parts), *parts[0].size[1:])
    if held != tuple(tensor.shape):
        raise KeyError(f"{name} is {tuple(tensor.shape)} here; by the weight table it should be {held}")
    split = tensor.partition_dim if getattr(tensor, "tensor_model_parallel", False) else None  # type: ignore[attr-defined]
    if ranks > 1 and split != row.split:
        raise KeyError(f"{name} is split along {split} here; by the weight table along {row.split}")
    for part in parts:
        place = Place(
            name=part.name,
            shape=part.shape,
            start=part.start,
            size=part.size,
            dtype=str(tensor.dtype).removeprefix("torch."),
            served=row.served,
        )
        yield Piece(place, tensor.detach().narrow(0, part.first_row, part.size[0]))


def cover(places_by_rank: Sequence[Sequence[Place]]) -> dict[Place, list[int]]:
    """Which ranks hold each place; the places tile every tensor without gap or overlap.

    Raises:
        ValueError: tensors that are covered in part, twice, or in two shapes; all of them, by name.
    """
    holders: dict[Place, list[int]] = defaultdict(list)
    for rank, places in enumerate(places_by_rank):
        for place in places:
            holders[place].append(rank)
    by_name: dict[str, list[Place]] = defaultdict(list)
    for place in holders:
        by_name[place.name].append(place)
    faults = [fault for places in by_name.values() if (fault := _tiling_fault(places))]
    if faults:
        raise ValueError("the ranks' shards do not make whole tensors:\n  " + "\n  ".join(faults))
    return holders


def _tiling_fault(places: list[Place]) -> str | None:
    name, shape = places[0].name, places[0].shape
    if any((place.shape, place.dtype) != (shape, places[0].dtype) for place in places):
        return f"{name}: ranks disagree on its shape or dtype: {sorted({(p.shape, p.dtype) for p in places})}"
    if any(_overlap(a, b) for a, b in combinations(places, 2)):
        return f"{name}: shards overlap: {', '.join(map(str, places))}"
    held = sum(prod(place.size) for place in places)
    return None if held == prod(shape) else f"{name}: {held} of {prod(shape)} elements are held by any rank"


def _overlap(a: Place, b: Place) -> bool:
    return all(
        a_start < b_start + b_size and b_start < a_start + a_size
        for a_start, a_size, b_start, b_size in zip(a.start, a.size, b.start, b.size, strict=True)
    )
