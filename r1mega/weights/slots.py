"""Where the boxes of HF tensors lie in an engine worker's memory.

A `Slot` is the receiving twin of a `Piece`: a box of an HF tensor, and the place in the worker's memory
that holds it. The memory is one file that the worker keeps its parameters in and the trainer's ranks map,
so a weight is copied once, from the trainer's parameter to the engine's.

Kernels may keep rows interleaved: in blocks of `block` rows, element (r, k) of a parameter with `width`
columns lies at `(r // block) * block * width + k * block + r % block`; with block 1 that is row-major.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Slot:
    """A box of an HF tensor in a worker's memory.

    Attributes:
        name: of the HF tensor.
        start: where the box starts in it.
        size: how far it reaches.
        dtype: of the elements, as torch names it.
        base: of the parameter in the worker's memory, in bytes.
        width: columns of the parameter.
        row: of the parameter, where the box starts.
        column: the same.
        block: rows that lie interleaved.
    """

    name: str
    start: tuple[int, ...]
    size: tuple[int, ...]
    dtype: str
    base: int
    width: int
    row: int
    column: int
    block: int

    @property
    def bytes(self) -> int:
        """Size of the box."""
        return prod(self.size) * getattr(torch, self.dtype).itemsize

    def cut(self, start: tuple[int, ...], size: tuple[int, ...]) -> Slot:
        """The part of the slot for a box inside its own."""
        return replace(
            self,
            start=start,
            size=size,
            row=self.row + start[0] - self.start[0],
            column=self.column + (start[1] - self.start[1] if len(start) > 1 else 0),
        )

    def views(self, memory: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """The box's rows, a stretch at a time, with the view of the memory that holds them.

        A view of an interleaved stretch has three dimensions: blocks, rows of a block, columns.

        Args:
            memory: the worker's whole, as bytes.
        """
        flat = memory.view(getattr(torch, self.dtype))
        base = self.base // flat.itemsize
        rows, columns = self.size[0], prod(self.size[1:])
        done = 0
        while done < rows:
            row = self.row + done
            inside = row % self.block
            whole = (rows - done) // self.block
            at = base + (row - inside) * self.width + self.column * self.block + inside
            if inside == 0 and whole and self.block > 1:
                stretch = whole * self.block
                shape: tuple[int, ...] = (whole, self.block, columns)
                strides: tuple[int, ...] = (self.block * self.width, 1, self.block)
            else:
                stretch = min(rows - done, self.block - inside) if self.block > 1 else rows
                shape = (stretch, columns) if len(self.size) > 1 else (stretch,)
                strides = (self.width if self.block == 1 else 1, self.block)[: len(shape)]
            yield slice(done, done + stretch), flat.as_strided(shape, strides, at)
            done += stretch

    def read(self, memory: Tensor) -> Tensor:
        """The box in row-major order; a view where it lies so, else a copy."""
        views = list(self.views(memory))
        if len(views) == 1 and views[0][1].is_contiguous():
            return views[0][1]
        whole = torch.empty(self.size, dtype=getattr(torch, self.dtype))
        for rows, view in views:
            part = whole[rows]
            part.view(view.shape).copy_(view)
        return whole
