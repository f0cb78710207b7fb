"""AIME 2024 and MATH-500: a final answer that is compared by mathematics."""

from __future__ import annotations

from r1mega.data.benchmarks.benchmark import Benchmark
from r1mega.data.benchmarks.values import identity, metadata, text_or_number
from r1mega.data.fields import Fields
from r1mega.data.question import Question

_ASK = "{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{{}}."


def _aime(fields: Fields, seed: int) -> Question:
    """Both publications of it: `problem`, `answer`, `id`, or the same with a capital."""
    answer = text_or_number(fields, "answer", "Answer").strip()
    if answer and not (answer.isascii() and answer.isdigit() and len(answer.lstrip("0")) <= 3):
        wrong = f"must be a whole number from 0 to 999, was {answer[:40]!r}"
        fields.wrong(fields.first("answer", "Answer"), wrong)
    return Question(
        id=identity(fields, "id", "ID"),
        text=_ASK.format(problem=fields.text(fields.first("problem", "Problem"))),
        answer=answer.lstrip("0") or "0",
        task="aime_2024",
    )


def _math(fields: Fields, seed: int) -> Question:
    return Question(
        id=identity(fields, "unique_id"),
        text=_ASK.format(problem=fields.text("problem")),
        answer=text_or_number(fields, "answer"),
        task="math_500",
        parameters=metadata(fields, "subject", "level"),
    )


AIME_2024 = Benchmark("aime_2024", "HuggingFaceH4/aime_2024 or Maxwell-Jia/AIME_2024", "mathematics", _aime)
MATH_500 = Benchmark("math_500", "HuggingFaceH4/MATH-500", "mathematics", _math)
