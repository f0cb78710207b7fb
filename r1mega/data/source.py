"""What a task of our own gives: its questions, held-out and training ones apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from r1mega.data.question import Question


class Streams(NamedTuple):
    """Two streams of questions, which may end and may repeat themselves; no text is in both.

    A task that has no split of its own gives the same iterator twice, and held-out questions are
    then taken from it before training ones.
    """

    held_out: Iterator[Question]
    train: Iterator[Question]


class Source(NamedTuple):
    """A task of our own: the dataclass of its parameters, which has `validate`, and its streams by
    parameters and seed."""

    parameters: type
    streams: Callable[[Mapping[str, Any], str], Streams]
