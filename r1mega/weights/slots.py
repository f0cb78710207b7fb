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

        A view is in the order of the memory: rows and columns; or, where rows lie interleaved, blocks,
        columns, rows of a block (`like` brings the rows of a box into that shape).

        Args:
            memory: the worker's whole, as bytes.
        """
        flat = memory.view(getattr(torch, self.dtype))
        base = self.base // flat.itemsize
        rows, columns = self.size[0], prod(self.size[1:])
        if self.block == 1:
            at = base + self.row * self.width + self.column
            yield slice(0, rows), flat.as_strided((rows, columns), (self.width, 1), at)
            return
        done = 0
        while done < rows:
            inside = (self.row + done) % self.block
            whole = (rows - done) // self.block if inside == 0 else 0
            taken = self.block if whole else min(rows - done, self.block - inside)
            at = base + (self.row + done - inside) * self.width + self.column * self.block + inside
            shape = (max(1, whole), columns, taken)
            yield (
                slice(done, done + shape[0] * taken),
                flat.as_strided(shape, (self.block * self.width, self.block, 1), at),
            )
            done += shape[0] * taken


def like(view: Tensor, rows: Tensor) -> Tensor:
    """The rows of a box, in the shape and the order of the view that holds them."""
    plain = rows.view(len(rows), -1)
    return plain if view.dim() == 2 else plain.unflatten(0, (len(view), -1)).transpose(1, 2)
