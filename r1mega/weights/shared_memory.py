"""The hand-over on one CPU machine: every rank writes its shards into memory that the engines map.

No rank gathers and no byte is copied twice: a rank writes each of its pieces straight to its place in
the whole HF tensor, and the engine's loader reads that tensor where it lies. The memory is an anonymous
file, so nothing is left behind, however the run ends.

The receiving end is `SharedMemoryEngine` (r1mega/rollout/plugin.py), a weight-transfer engine of vLLM.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import asdict
from math import prod
from typing import Any

import torch
import torch.distributed as dist
import xxhash
from torch import Tensor

from r1mega.weights.pieces import Place
from r1mega.weights.source import MegatronSource, TensorMeta
from r1mega.weights.table import Served

ALIGNMENT_BYTES = 64
Receipt = dict[str, int]
"""A place, as text, to the checksum of its bytes."""


class SharedMemorySender:
    """The trainer's end. Every rank builds it and calls `write` in step."""

    def __init__(self, source: MegatronSource) -> None:
        served = {place.name for sent in source.places for place in sent if place.served is Served.engine}
        self.metas = [meta for meta in source.metadata() if meta.name in served]
        self.pieces = [piece for piece in source.pieces if piece.place.name in served]
        self.places = [place for sent in source.places for place in sent if place.name in served]
        path = [_create(total_bytes(self.metas)) if dist.get_rank() == 0 else ""]
        dist.broadcast_object_list(path)
        self.path: str = path[0]
        self.tensors = map_tensors(self.path, self.metas)

    def init_info(self) -> dict[str, Any]:
        """What vLLM's `init_weight_transfer_engine` is told."""
        return {
            "path": self.path,
            "tensors": [
                [meta.name, str(meta.dtype).removeprefix("torch."), list(meta.shape)] for meta in self.metas
            ],
            "places": [asdict(place) for place in self.places],
        }

    def write(self) -> Receipt:
        """Write this rank's pieces; returns the checksum of each, taken from the parameter itself.

        All ranks have written when it returns.
        """
        for piece in self.pieces:
            piece.place.of(self.tensors[piece.place.name]).copy_(piece.tensor)
        receipt = {str(piece.place): checksum(piece.tensor) for piece in self.pieces}
        dist.barrier()
        return receipt


def checksum(tensor: Tensor) -> int:
    """The 64-bit xxHash of a tensor's bytes, in row-major order."""
    return xxhash.xxh3_64_intdigest(tensor.contiguous().view(torch.uint8).numpy().data)


def receipt_of(tensors: dict[str, Tensor], places: Sequence[Place]) -> Receipt:
    """The checksum of each place, read from whole tensors."""
    return {str(place): checksum(place.of(tensors[place.name])) for place in places}


def total_bytes(metas: Sequence[TensorMeta]) -> int:
    """Size of the memory that holds these tensors."""
    return sum(_aligned(meta) for meta in metas)


def map_tensors(path: str, metas: Sequence[TensorMeta]) -> dict[str, Tensor]:
    """The tensors that lie in the file, as views of its memory."""
    with open(path, "r+b") as file:
        memory = mmap.mmap(file.fileno(), total_bytes(metas))
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    tensors, at = {}, 0
    for meta in metas:
        size = prod(meta.shape) * meta.dtype.itemsize
        tensors[meta.name] = whole[at : at + size].view(meta.dtype).view(meta.shape)
        at += _aligned(meta)
    return tensors


def _aligned(meta: TensorMeta) -> int:
    size = prod(meta.shape) * meta.dtype.itemsize
    return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _create(size: int) -> str:
    # The descriptor stays open as long as this process lives; others reach the file through it.
    descriptor = os.memfd_create("r1mega-weights")
    os.truncate(descriptor, size)
    return f"/proc/{os.getpid()}/fd/{descriptor}"
