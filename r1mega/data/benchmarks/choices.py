"""GPQA Diamond and MMLU: multiple choice, answered with a letter.

GPQA was published with the right option first, so its options are mixed, each question's by the seed and
its id. MMLU's keep their order: some speak of each other ("both A and B").
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from string import ascii_uppercase

from r1mega.data.benchmarks.benchmark import Benchmark
from r1mega.data.benchmarks.values import identity, metadata
from r1mega.data.fields import Fields
from r1mega.data.question import Question, question_id
from r1mega.data.strict_json import kind

_ASK = "{question}\n\n{options}\n\nThink step by step, then answer with the letter of the right option alone."
_MOST_OPTIONS = 10
_WRONG = tuple(f"Incorrect Answer {number}" for number in (1, 2, 3))


def _gpqa(fields: Fields, seed: int) -> Question:
    question, right = fields.text("Question").strip(), fields.text("Correct Answer").strip()
    options = [right, *(fields.text(key).strip() for key in _WRONG)]
    if right and right in options[1:]:
        fields.wrong(_WRONG[options[1:].index(right)], "is the same as Correct Answer")
    own_id = identity(fields, "Record ID") or question_id(question)
    random.Random(f"gpqa_diamond:{seed}:{own_id}").shuffle(options)
    about = metadata(fields, "High-level domain", "Subdomain")
    return _multiple_choice("gpqa_diamond", own_id, question, options, options.index(right), about)


def _mmlu(fields: Fields, seed: int) -> Question:
    question = fields.text("question")
    options = _options(fields)
    right = _index(fields, len(options))
    if options and not options[right].strip():
        fields.wrong("choices", "has an empty right option")
    return _multiple_choice("mmlu", "", question, options, right, metadata(fields, "subject"))


def _multiple_choice(
    task: str,
    own_id: str,
    question: str,
    options: Sequence[str],
    right: int,
    about: dict[str, str | int | float],
) -> Question:
    listed = "\n".join(
        f"{letter}) {option}" for letter, option in zip(ascii_uppercase, options, strict=False)
    )
    letter = ascii_uppercase[right]
    return Question(
        id=own_id,
        text=_ASK.format(question=question, options=listed),
        answer=letter,
        task=task,
        entry={"kind": "choice", "letter": letter},
        parameters=about,
    )


def _options(fields: Fields) -> list[str]:
    value = fields.values.get("choices")
    if not isinstance(value, list) or not 2 <= len(value) <= _MOST_OPTIONS:
        what = f"a list of {len(value)}" if isinstance(value, list) else kind(value)
        fields.wrong("choices", f"must be a list of 2 to {_MOST_OPTIONS} texts, is {what}")
        return []
    for number, option in enumerate(value):
        if not isinstance(option, str):
            fields.wrong(f"choices[{number}]", f"must be a text, is {kind(option)}")
    return [str(option) for option in value]


def _index(fields: Fields, options: int) -> int:
    """The right option's place: `answer` counts from 0, or is a letter."""
    value = fields.values.get("answer")
    if isinstance(value, str) and len(value) == 1:
        value = ascii_uppercase.find(value)
    if isinstance(value, int) and not isinstance(value, bool) and (0 <= value < options or not options):
        return max(0, min(value, _MOST_OPTIONS))
    shown = repr(fields.values.get("answer"))[:40]
    fields.wrong("answer", f"must be an option's number, from 0, or its letter; was {shown}")
    return 0


GPQA_DIAMOND = Benchmark("gpqa_diamond", "Idavidrein/gpqa (gpqa_diamond)", "letter", _gpqa)
MMLU = Benchmark("mmlu", "cais/mmlu (all, test)", "letter", _mmlu)
