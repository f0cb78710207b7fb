"""A question with its reference answer, and a set of them split into training and held-out.

A question is known by its text: equal texts are one question, wherever they came from, and carry
one id.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, final


@final
@dataclass(frozen=True, slots=True)
class Question:
    """One question and what is needed to grade an answer to it.

    `id` is short and stable over runs, `text` the question as asked, `answer` the reference answer
    ("" where many answers are right and only the task's verifier can tell). `task` names the
    task, `parameters` are a reasoning-gym task's, and `entry` is what the task's generator returned,
    for its verifier; a question from a prompt file has an empty `entry`. `language` is the one that
    its answer's thought is to be in, and `kind` says what rewards it: "reasoning", "general" or
    "safety".
    """

    id: str
    text: str
    answer: str
    task: str
    entry: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    parameters: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    language: str = "en"
    kind: str = "reasoning"


@final
@dataclass(frozen=True, slots=True)
class Questions:
    """Training and held-out questions; no text is in both, and none is in either twice."""

    train: tuple[Question, ...]
    held_out: tuple[Question, ...]


def question_id(text: str) -> str:
    """16 hexadecimal digits that depend on the text alone."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
