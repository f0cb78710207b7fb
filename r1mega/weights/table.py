"""A family's weight table: rows that tie Megatron's name of a weight to HF's, readable both ways.

A name in a row counts layers and experts over the whole model: `{l}` a layer, `{m}` a
multi-token-prediction layer, `{e}` an expert. Where a row has several HF names, Megatron keeps those
tensors as one: cut along the first dimension into as many runs, and the runs of one cut side by side.

A row says all that a layout needs to know of a weight, so which part of which HF tensor a rank holds is
plain arithmetic (`Row.parts`), done alike for a model at hand and for one on paper.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Any


class Served(StrEnum):
    """Who needs a weight besides the trainer."""

    engine = "engine"
    draft = "draft"
    """The engine's speculative draft model, where one runs."""
    trainer = "trainer"


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a parameter's first dimension, and the box of an HF tensor that it is."""

    name: str
    shape: tuple[int, ...]
    """Of the whole HF tensor."""
    start: tuple[int, ...]
    size: tuple[int, ...]
    first_row: int
    """Where the stretch begins in the parameter."""


@dataclass(frozen=True)
class Row:
    """One kind of weight.

    Attributes:
        megatron: Megatron's name, a pattern.
        hf: the HF names of its parts, patterns of the same indices.
        shapes: of each of them, whole.
        split: the dimension that tensor parallelism divides; None where every rank has it whole.
        runs: how many times the parts take turns in the whole parameter; None: once a rank.
        layers: the layers that have it, as `{l}` or `{m}` counts them; None where it is of no layer.
        experts: how many experts have one each.
        served: who needs it.
        first_layer: what `{m}` is counted from in HF's names.
        fused: another name of a weight that has a row already, as Transformer Engine's layers call it.
    """

    megatron: str
    hf: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    split: int | None = None
    runs: int | None = None
    layers: tuple[int, ...] | None = None
    experts: int = 0
    served: Served = Served.engine
    first_layer: int = 0
    fused: bool = False

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        escaped = re.escape(self.megatron).replace(r"\{", "{").replace(r"\}", "}")
        return re.compile(re.sub(r"\{(\w)\}", r"(?P<\1>\\d+)", escaped) + r"\Z")

    def hf_names(self, megatron: str) -> list[str] | None:
        """HF's names of the parts of this Megatron weight; None where the row is not about it."""
        match = self._pattern.match(megatron)
        if match is None:
            return None
        indices = {key: int(value) for key, value in match.groupdict().items()}
        layer = indices.get("l", indices.get("m"))
        if self.layers is not None and layer is not None and layer not in self.layers:
            return None
        return self.named(indices)

    def named(self, indices: dict[str, int]) -> list[str]:
        """HF's names of the parts, for these values of `l`, `m` and `e`."""
        if "m" in indices:
            indices = indices | {"m": indices["m"] + self.first_layer}
        return [name.format(**indices) for name in self.hf]

    def parts(self, names: Sequence[str], rank: int, ranks: int) -> Iterator[Part]:
        """What one of so many tensor-parallel ranks holds, in the order it lies in.

        Args:
            names: HF's, of this row's parts.
        """
        if self.split is None:
            rank, ranks = 0, 1
        # Megatron lays parts that take turns out a whole number of turns a rank, others once a rank.
        turns = self.runs // ranks if self.runs else 1
        first_row = 0
        for turn in range(turns):
            for name, shape in zip(names, self.shapes, strict=True):
                start, size = [0] * len(shape), list(shape)
                if self.split == 1:
                    size[1] //= ranks
                    start[1] = rank * size[1]
                else:
                    size[0] //= ranks * turns
                    start[0] = (rank * turns + turn) * size[0]
                yield Part(name, shape, tuple(start), tuple(size), first_row)
                first_row += size[0]


def under(rows: Sequence[Row], megatron: str, hf: str, **fields: Any) -> list[Row]:
    """The rows with both sides' names continued to the front, and further fields of `Row` set."""
    return [
        replace(row, megatron=megatron + row.megatron, hf=tuple(hf + name for name in row.hf), **fields)
        for row in rows
    ]


def all_hf_names(table: Sequence[Row]) -> set[str]:
    """HF's name of every weight in the table."""
    return {
        name
        for row in table
        for layer in ((0,) if row.layers is None else row.layers)
        for expert in range(row.experts or 1)
        for name in row.named({"m" if "{m}" in row.megatron else "l": layer, "e": expert})
    }


def find(table: Sequence[Row], megatron: str) -> tuple[Row, list[str]]:
    """The one row about a Megatron weight, and HF's names of its parts.

    Raises:
        KeyError: no row, or more than one, is about it.
    """
    found = list(_matches(table, megatron))
    if len(found) != 1:
        raise KeyError(f"the weight table has {len(found)} rows for {megatron!r}; it must have one")
    return found[0]


def _matches(table: Sequence[Row], megatron: str) -> Iterator[tuple[Row, list[str]]]:
    for row in table:
        names = row.hf_names(megatron)
        if names is not None:
            yield row, names
