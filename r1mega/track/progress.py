"""The terminal's line for every rollout, or every so many updates of pre-training.

    rollout 12/30  reward  1.43  accuracy 0.71  mixed 0.12  length  24.1    2,310 tok/s    3.1 s  left 0:58

Guarantees: one whole line a call, flushed, of what the row holds; escape codes only on a terminal
that has not refused them (NO_COLOR). The time left is the smoothed pace of the latest units times
the units left, everything between two lines included.
"""

import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from r1mega.track.durations import clock as as_clock

COLUMNS = (
    ("critic/score/mean", "reward {:5.2f}"),
    ("reward/accuracy", "accuracy {:.2f}"),
    ("reward/mixed_language", "mixed {:.2f}"),
    ("response_length/mean", "length {:5.1f}"),
    ("loss", "loss {:.3f}"),
    ("perf/throughput", "{:>7,.0f} tok/s"),
    ("tokens_per_s", "{:>7,.0f} tok/s"),
    ("timing_s/step", "{:>5.1f} s"),
)
"""Metric and how it is printed, in the line's order; a row shows those it has."""

SMOOTHING = 0.3
"""Weight of the newest pace in the running average."""


class Progress:
    """Prints lines against a total; made when the work starts, or starts again."""

    def __init__(
        self,
        noun: str,
        total: int,
        *,
        done: int = 0,
        stream: TextIO | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Count `noun`s ("rollout", "update") up to `total`, of which a resumed run has `done`."""
        self._noun, self._total, self._done = noun, total, done
        self._stream = sys.stdout if stream is None else stream
        self._now, self._since = now, now()
        self._pace_s: float | None = None

    def show(self, done: int, row: Mapping[str, Any]) -> None:
        """Print the line for the moment at which `done` units are finished.

        `row` is a row of metrics. `done` must grow from call to call: the pace is measured over
        what was finished in between.
        """
        self._measure(done)
        left = as_clock(max(0, self._total - done) * (self._pace_s or 0.0))
        width = len(str(self._total))
        head = f"{self._noun} {done:>{width}}/{self._total}"
        line = "  ".join([head, *columns(row), f"left {left}"])
        print(self._bold(head) + line[len(head) :], file=self._stream, flush=True)

    def _measure(self, done: int) -> None:
        now = self._now()
        pace = (now - self._since) / max(1, done - self._done)
        self._pace_s = pace if self._pace_s is None else SMOOTHING * pace + (1 - SMOOTHING) * self._pace_s
        self._since, self._done = now, done

    def _bold(self, text: str) -> str:
        plain = not self._stream.isatty() or "NO_COLOR" in os.environ
        return text if plain else f"\x1b[1m{text}\x1b[0m"


def columns(row: Mapping[str, Any]) -> list[str]:
    """The row's known figures as text; one that is not finite says so instead of vanishing."""
    return [form.format(math.nan if row[key] is None else row[key]) for key, form in COLUMNS if key in row]
