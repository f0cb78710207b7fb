"""Memory that processes of one machine share (a file without a name, gone when its users are), and the
checksum of what lies in it.

A checksum is of a tensor's elements in the order in which an engine keeps them, so that the engine reads
its memory once, from front to back. What lies otherwise is brought into that order a bucket at a time,
which stays in the processor's cache: no pass over memory is added.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import xxhash
from torch import Tensor

ALIGNMENT_BYTES = 64
BUCKET_BYTES = 2 * 1024**2
"""What is brought into another order at a time; small enough for a processor's cache."""


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


def buckets(tensor: Tensor) -> Iterable[Tensor]:
    """The tensor in parts of about `BUCKET_BYTES`, by its first dimension."""
    return tensor.split(max(1, BUCKET_BYTES * len(tensor) // max(1, tensor.nbytes)))


def in_order(tensor: Tensor) -> Tensor:
    """The elements one after another in memory, in the tensor's own order; a view where they lie so."""
    if tensor.dim() != 3 or tensor.stride(2) == 1:
        return tensor.contiguous()
    # Blocks of rows, to be laid column by column. Copied, that is done element by element; a channel shuffle
    # is the same permutation, which torch has in vector instructions where channels come last.
    blocks, columns, rows = tensor.shape
    channels = tensor.transpose(1, 2).contiguous()
    size = rows * columns
    last = channels.as_strided((blocks, size, 1, 1), (size, 1, size, size))
    return torch.channel_shuffle(last, rows).view(tensor.shape)


class Checksum:
    """The 64-bit xxHash of all bytes taken in, one after another."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_64()

    def add(self, elements: Tensor) -> None:
        """Take in a tensor that is contiguous."""
        self._hash.update(elements.view(-1).view(torch.uint8).numpy().data)

    def value(self) -> int:
        """Of what was taken in."""
        return self._hash.intdigest()


def checksum(*views: Tensor) -> int:
    """The checksum of the elements of all views, each in its own order."""
    total = Checksum()
    for view in views:
        for part in [view] if view.is_contiguous() else buckets(view):
            total.add(in_order(part))
    return total.value()
