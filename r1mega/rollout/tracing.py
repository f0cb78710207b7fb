"""Where vLLM's own loader puts each element of each HF tensor, found out by watching it.

The loader is run on tensors whose elements say what they are: the number of their tensor, then their
row, then their column. What lies in the model's parameters afterwards is its layout, whatever the
loader fused, split, replicated or padded, and whatever the kernels interleaved. Nothing about a model is
assumed, and what cannot be described as boxes is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from r1mega.weights.source import TensorMeta

BLOCKS = (1, 8, 16, 32, 64)
"""Rows that a kernel may keep interleaved."""
Load = Callable[[Iterator[tuple[str, Tensor]]], object]


class LayoutError(RuntimeError):
    """The loader does something to the weights that boxes do not describe."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive rows of a parameter that hold consecutive rows of a box of an HF tensor."""

    parameter: str
    row: int
    rows: int
    block: int
    name: str
    start: tuple[int, ...]
    size: tuple[int, ...]


def trace(model: torch.nn.Module, load: Load, metas: Sequence[TensorMeta]) -> list[Stretch]:
    """Each stretch of the model's parameters that the loader fills; leaves coordinates in the model.

    Args:
        load: loads an iterator of named HF tensors and makes the kernels' layout of them.
        metas: every HF tensor that will be loaded.

    Raises:
        LayoutError: an element is filled with something else than an element of an HF tensor, or rows of
            a parameter that nothing fills lie anywhere but at its end.
    """
    numbers = _pass(model, load, metas, lambda number, meta: torch.tensor(float(number + 1)))
    rows = _pass(model, load, metas, lambda _, meta: _along(meta, 0))
    columns = _pass(model, load, metas, lambda _, meta: _along(meta, 1))
    return [
        stretch
        for name in numbers
        for stretch in _stretches(name, numbers[name], rows[name], columns[name], metas)
    ]


def _pass(
    model: torch.nn.Module,
    load: Load,
    metas: Sequence[TensorMeta],
    coordinate: Callable[[int, TensorMeta], Tensor],
) -> dict[str, Tensor]:
    """The parameters after every element of every HF tensor was loaded as its coordinate."""
    for parameter in model.parameters():
        if parameter.dtype != torch.float32:
            raise LayoutError(f"coordinates need parameters of fp32; one is {parameter.dtype}")
        parameter.data.zero_()
    load((meta.name, coordinate(i, meta).expand(meta.shape)) for i, meta in enumerate(metas))
    return {name: parameter.data.clone() for name, parameter in model.named_parameters()}


def _along(meta: TensorMeta, dim: int) -> Tensor:
    """Each element's index along the dimension; 0 where there is no such dimension."""
    if dim >= len(meta.shape):
        return torch.tensor(0.0)
    index = torch.arange(meta.shape[dim], dtype=torch.float32)
    return index[:, None] if dim == 0 and len(meta.shape) > 1 else index


def _stretches(
    parameter: str, numbers: Tensor, rows: Tensor, columns: Tensor, metas: Sequence[TensorMeta]
) -> list[Stretch]:
    for block in BLOCKS:
        plain = [_row_major(part, block) for part in (numbers, rows, columns)]
        if plain[0] is not None and _are_boxes(*plain):  # type: ignore[arg-type]
            widths_R = (plain[0] > 0).sum(1).tolist()
            numbers_R, rows_R, columns_R = (part[:, 0].long().tolist() for part in plain)  # type: ignore[index]
            found = list(zip(numbers_R, columns_R, widths_R, rows_R, strict=True))
            return list(_runs(parameter, block, found, metas))
    raise LayoutError(f"{parameter}: its rows are no boxes of the weights, in whatever order")


def _row_major(part: Tensor, block: int) -> Tensor | None:
    """The parameter as rows and columns, its rows taken out of blocks; None where they do not fit."""
    width = part.shape[-1] if part.dim() > 1 else 1
    rows = part.reshape(-1, width).shape[0]
    if rows % block:
        return None
    return part.reshape(rows // block, width, block).transpose(1, 2).reshape(rows, width)


def _are_boxes(numbers: Tensor, rows: Tensor, columns: Tensor) -> bool:
    """Whether each row is a stretch of a row of one HF tensor, with nothing but padding after it."""
    across = torch.arange(numbers.shape[1])
    padding = across >= (numbers > 0).sum(1, keepdim=True)
    return bool(
        ((numbers == numbers[:, :1]) & (numbers > 0) | padding & (numbers == 0)).all()
        and ((rows == rows[:, :1]) | padding).all()
        and ((columns == columns[:, :1] + across) | padding).all()
    )


def _runs(
    parameter: str,
    block: int,
    found_R: list[tuple[int, int, int, int]],
    metas: Sequence[TensorMeta],
) -> Iterator[Stretch]:
    """The stretches of a parameter.

    Args:
        found_R: what its rows hold: tensor (0: none), first column, width, and row of the tensor.
    """
    first = 0
    for at in range(1, len(found_R) + 1):
        number, column, width, row = found_R[first]
        if at < len(found_R) and found_R[at] == (number, column, width, (row + at - first) if number else 0):
            continue
        if number:
            meta = metas[number - 1]
            dims = len(meta.shape)
            start, size = (row, column)[:dims], (at - first, width)[:dims]
            yield Stretch(parameter, first, at - first, block, meta.name, start, size)
        first = at
