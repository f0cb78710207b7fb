"""Every word of the world, so that all models that speak it share one tokenizer, whatever they learn."""

from __future__ import annotations

import random
from collections.abc import Iterator

from r1mega.data.question import Question
from r1mega.data.world import problem_texts, requests, safety
from r1mega.data.world.problems import ACTIONS, TEMPLATES, worded
from r1mega.data.world.request_texts import answer_request, answer_safety
from r1mega.data.world.thoughts import USES
from r1mega.data.world.words import LANGUAGES, NAMES, THINGS
from r1mega.data.writer import Asked


def questions() -> Iterator[str]:
    """Texts that hold every piece of any question."""
    for language in LANGUAGES:
        yield from _problems(language)
        yield from (question.text for question in requests.every(language))
        yield from (question.text for question in safety.every(language))


def _problems(language: str) -> Iterator[str]:
    actions = [(op, action) for op, of_op in ACTIONS[language].items() for action in of_op]
    for template in TEMPLATES[language]:
        for name in NAMES[language]:
            for things in THINGS[language]:
                for op, action in actions:
                    for count in (1, 3):
                        yield worded(
                            f"50{f' {op} 11' * count}",
                            language,
                            template=template,
                            name=name,
                            things=things,
                            actions=[action] * count,
                        )


def answers() -> Iterator[str]:
    """Texts that hold every piece of any answer to any question, good or bad."""
    yield from problem_texts.words()
    rng = random.Random("answer words")
    for language in LANGUAGES:
        for question in requests.every(language):
            for grade in requests.GRADES[question.entry["sort"]]:
                yield from (answer_request(_asked(question, rng, use), grade) for use in USES)
        for question in safety.every(language):
            for how in safety.REPLIES:
                yield from (answer_safety(_asked(question, rng, use), how) for use in USES)


def _asked(question: Question, rng: random.Random, use: str) -> Asked:
    return Asked(question, question, rng, use)


def words() -> Iterator[str]:
    """All of it; a question follows a space, as it does in every template."""
    yield from (f" {text}" for text in questions())
    yield from answers()
