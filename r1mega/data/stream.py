"""Training questions without end: every epoch in a new order, resumable at any question.

Invariants: what `take` returns is a function of questions, seed and position only; each epoch asks
each question once; the order of an epoch depends on (seed, epoch). A resumed stream goes on as the
undisturbed one would have, and one over other questions is refused.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Any, final

from r1mega.data.question import Question


@final
class QuestionStream:
    """Deals out questions; `state` is JSON-able and `from_state` continues from it."""

    def __init__(self, questions: Sequence[Question], seed: int, position: int = 0) -> None:
        """`position` counts the questions already dealt. Raises ValueError if there are no
        questions."""
        if not questions:
            raise ValueError("a stream needs at least one question")
        self._questions = questions
        self._seed = seed
        self._position = position
        self._order: tuple[int, Sequence[int]] = (-1, ())  # the latest epoch's, by epoch

    @classmethod
    def from_state(cls, questions: Sequence[Question], state: Mapping[str, Any]) -> QuestionStream:
        """The stream that `state` was taken from. Raises ValueError if the questions are others."""
        if _fingerprint(questions) != state["questions"]:
            raise ValueError(
                "the training questions are not those of the run that is resumed: data.* or seed"
                " has changed, or the prompts file"
            )
        return cls(questions, seed=int(state["seed"]), position=int(state["position"]))

    def state(self) -> dict[str, int | str]:
        """Seed, position, and a fingerprint of the questions."""
        questions = _fingerprint(self._questions)
        return {"seed": self._seed, "position": self._position, "questions": questions}

    @property
    def epoch(self) -> float:
        """Passes over the questions so far."""
        return self._position / len(self._questions)

    def take(self, count: int) -> list[Question]:
        """The next `count` questions; over an epoch's end, a question may come twice among them."""
        taken = [self._at(self._position + offset) for offset in range(count)]
        self._position += count
        return taken

    def _at(self, position: int) -> Question:
        epoch, place = divmod(position, len(self._questions))
        if self._order[0] != epoch:
            everyone = range(len(self._questions))
            rng = random.Random(f"epoch:{self._seed}:{epoch}")
            self._order = (epoch, rng.sample(everyone, len(everyone)))
        return self._questions[self._order[1][place]]


def _fingerprint(questions: Sequence[Question]) -> str:
    ids = "\n".join(question.id for question in questions)
    return hashlib.sha256(ids.encode()).hexdigest()[:16]
