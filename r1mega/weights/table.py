"""A family's weight table: rows that tie Megatron's name of a weight to HF's, readable both ways.

A name in a row counts layers and experts over the whole model: `{l}` a layer, `{m}` a
multi-token-prediction layer, `{e}` an expert. Where a row has several HF names, Megatron keeps those
tensors as one, stacked along the first dimension.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property


class Served(StrEnum):
    """Who needs a weight besides the trainer."""

    engine = "engine"
    draft = "draft"
    """The engine's speculative draft model, where one runs."""
    trainer = "trainer"


@dataclass(frozen=True)
class Row:
    """One kind of weight.

    Attributes:
        megatron: Megatron's name, a pattern.
        hf: the HF names of its parts, patterns of the same indices.
        served: who needs it.
        first_layer: what `{m}` is counted from in HF's names.
    """

    megatron: str
    hf: tuple[str, ...]
    served: Served = Served.engine
    first_layer: int = 0

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        escaped = re.escape(self.megatron).replace(r"\{", "{").replace(r"\}", "}")
        return re.compile(re.sub(r"\{(\w)\}", r"(?P<\1>\\d+)", escaped) + r"\Z")

    def hf_names(self, megatron: str) -> list[str] | None:
        """HF's names of the parts of this Megatron weight; None where the row is not about it."""
        match = self._pattern.match(megatron)
        if match is None:
            return None
        index = {
            key: int(value) + (self.first_layer if key == "m" else 0)
            for key, value in match.groupdict().items()
        }
        return [name.format(**index) for name in self.hf]


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
