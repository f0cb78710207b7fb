"""Which tensors are gathered together: a layer's, in as many groups as its bytes ask for. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

GROUP_BYTES = 1024**3
"""A group is no larger than this, or is one tensor."""


def reading_order(name: str) -> tuple[object, ...]:
    """Layers in the order of their numbers, not of their digits."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in name.split("."))


def grouped(tensors: Iterable[tuple[str, int]], most_bytes: int) -> Iterator[Sequence[tuple[str, int]]]:
    """Names with their bytes, in order, a group at a time; no group has tensors of two layers.

    Args:
        tensors: in reading order.
        most_bytes: of a group that is more than one tensor.
    """
    for _, of_layer in groupby(tensors, key=lambda tensor: _layer(tensor[0])):
        group: list[tuple[str, int]] = []
        held = 0
        for name, size in of_layer:
            if group and held + size > most_bytes:
                yield group
                group, held = [], 0
            group.append((name, size))
            held += size
        yield group


def _layer(name: str) -> str | None:
    """The layer that a name is of, by its first number; None for what is of no layer."""
    match = re.match(r"\D*\.\d+\.", name)
    return match and match[0]
