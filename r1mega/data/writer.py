"""What writes a task's texts for pre-training: kinds of answer, good ones and bad ones.

A kind is a function of a question and of the random numbers it is handed; one task's kinds may bear
the names of another's, and then take their place in a mixture of both.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

from r1mega.data.question import Question


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """A question to write an answer to.

    `other` is a question whose answer a guess may take. `use` says in which language to think, as
    `Corpus` has it; a writer whose thoughts are all formulas takes no notice.
    """

    question: Question
    other: Question
    rng: random.Random
    use: str = "same"


class Writer(NamedTuple):
    """A task's kinds of answer by name.

    `words` gives texts that, beside the prompts, hold every word of every kind. `faults` says what is
    wrong with the task's parameters for writing, at the key it is handed. `speaks` is whether its
    thoughts have a language.
    """

    kinds: Mapping[str, Callable[[Asked], str]]
    words: Callable[[Sequence[Question]], Iterator[str]]
    faults: Callable[[str, Mapping[str, Any]], list[str]]
    speaks: bool


def formatted(thought: str, answer: object) -> str:
    """An answer in the form asked for; it begins with a space."""
    return f" <think> {thought} </think> <answer> {answer} </answer>"


def unformatted(thought: str, answer: object, rng: random.Random) -> str:
    """The same without all the tags: none, or no answer block, or an open one."""
    return rng.choice(
        (
            f" {thought}",
            f" <think> {thought} </think> {answer}",
            f" {thought} <answer> {answer}",
        )
    )
