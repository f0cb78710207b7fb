"""The world's tasks by name: where their questions come from, and what writes answers to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from r1mega.data.question import Question
from r1mega.data.source import Source
from r1mega.data.world import lexicon, problem_texts, problems, request_texts, requests, safety
from r1mega.data.world.listing import Shares
from r1mega.data.writer import Asked, Writer


def _words(_questions: Sequence[Question]) -> Iterator[str]:
    """The whole world's, not only those of the task: models of other tasks read the same tokens."""
    return lexicon.words()


def _no_faults(_key: str, _parameters: Mapping[str, Any]) -> list[str]:
    return []


def _writer(kinds: Mapping[str, Callable[[Asked], str]]) -> Writer:
    return Writer(kinds, _words, _no_faults, speaks=True)


SOURCES = MappingProxyType(
    {
        problems.TASK: Source(problems.Parameters, problems.streams),
        requests.TASK: Source(Shares, requests.streams),
        safety.TASK: Source(Shares, safety.streams),
    }
)
WRITERS = MappingProxyType(
    {
        problems.TASK: _writer(problem_texts.KINDS),
        requests.TASK: _writer(request_texts.REQUEST_KINDS),
        safety.TASK: _writer(request_texts.SAFETY_KINDS),
    }
)
