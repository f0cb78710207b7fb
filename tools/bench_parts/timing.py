"""How a side is timed, and what the turns of a measurement look like."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")
Turn = Mapping[str, float]
"""Seconds, or tokens a second, by side."""


def timed(part: Callable[[], T]) -> tuple[float, T]:
    """Seconds until every rank has done it, and what it returned here."""
    dist.barrier()
    began = time.perf_counter()
    result = part()
    dist.barrier()
    return time.perf_counter() - began, result


def line(turn: Turn, form: str) -> str:
    """A turn as it is shown while the benchmark works."""
    return "  ".join(f"{name} {form.format(value)}" for name, value in turn.items())
