"""The arithmetic of a chain sum, step by step from the left, right or with one slip in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, slots=True)
class Step:
    """`left op right = result`, where op is + or -; the result is what was written, right or
    not."""

    left: int
    op: str
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left} {self.op} {self.right} = {self.result}"


def chain(expression: str, slip_at: int | None = None, slip_by: int = 0) -> list[Step]:
    """The partial sums of an expression like "3 + 5 - 2".

    The step `slip_at` is off by `slip_by`; later steps go on from what was written, so that the
    last result is off by as much. Raises ValueError for anything but whole numbers joined by + and
    -.
    """
    first, *rest = expression.split()
    value, steps = int(first), []
    for i, (op, term) in enumerate(zip(rest[::2], rest[1::2], strict=True)):
        if op not in ("+", "-"):
            raise ValueError(f"{expression!r} is no chain sum: {op!r} is neither + nor -")
        exact = value + int(term) if op == "+" else value - int(term)
        written = exact + slip_by if i == slip_at else exact
        steps.append(Step(left=value, op=op, right=int(term), result=written))
        value = written
    return steps


def thought(steps: Sequence[Step]) -> str:
    """The steps as text, e.g. "3 + 5 = 8, 8 - 2 = 6"."""
    return ", ".join(str(step) for step in steps)
