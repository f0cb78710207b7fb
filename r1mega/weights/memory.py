"""Memory that processes of one machine share: a file without a name, gone when its users are."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass

import torch
import xxhash
from torch import Tensor

ALIGNMENT_BYTES = 64


@dataclass(frozen=True, slots=True)
class SharedMemory:
    """A stretch of memory, as bytes, and the path by which other processes map it."""

    path: str
    bytes: Tensor

    @classmethod
    def create(cls, size: int) -> SharedMemory:
        """New memory of so many bytes, all zero; it lasts as long as any process that maps it."""
        # The descriptor stays open as long as this process lives; others reach the file through it.
        descriptor = os.memfd_create("r1mega-weights")
        os.truncate(descriptor, size)
        return cls(f"/proc/{os.getpid()}/fd/{descriptor}", _map(descriptor, size))

    @classmethod
    def at(cls, path: str) -> SharedMemory:
        """The memory that another process created."""
        with open(path, "r+b") as file:
            return cls(path, _map(file.fileno(), os.fstat(file.fileno()).st_size))


def _map(descriptor: int, size: int) -> Tensor:
    return torch.frombuffer(mmap.mmap(descriptor, size), dtype=torch.uint8)


def aligned(size: int) -> int:
    """The bytes that something of this size takes up."""
    return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def checksum(tensor: Tensor) -> int:
    """The 64-bit xxHash of a tensor's bytes, in row-major order."""
    return xxhash.xxh3_64_intdigest(tensor.contiguous().view(torch.uint8).numpy().data)
