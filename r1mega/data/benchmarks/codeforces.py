"""Codeforces: programs tried on a problem's official tests; the problems' ratings give the model's.

Left out are problems that the grader would misjudge: those without a rating, those whose official tests
are missing or cut, those that read files or talk to a judge, and those with several right outputs, which
need a checker of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from r1mega.data.benchmarks.benchmark import Benchmark
from r1mega.data.benchmarks.values import identity, metadata
from r1mega.data.fields import Fields
from r1mega.data.question import Question
from r1mega.data.strict_json import kind

_TIME_LIMIT_S = 2.0  # of most problems
_ASK = (
    "Write a Python program that reads the input from standard input and prints the output. "
    "Give the whole program in one block fenced by ```python."
)


def _codeforces(fields: Fields, seed: int) -> Question | str:
    title, tests = fields.text("title"), _tests(fields, "official_tests")
    rating, limit_s = fields.number("rating"), fields.number("time_limit")
    if limit_s is not None and limit_s <= 0:
        fields.wrong("time_limit", f"must be more than 0 seconds, was {limit_s}")
    text = f"{title}\n\n{_statement(fields)}\n\n{_ASK}"
    if not fields.faults and (reason := _unfit(fields, tests, rating)):
        return reason
    return Question(
        id=identity(fields, "id"),
        text=text,
        answer="",
        task="codeforces",
        entry={"kind": "stdin", "tests": tests, "time_limit_s": limit_s or _TIME_LIMIT_S},
        parameters={"rating": rating, **metadata(fields, "contest_id", "contest_start", "index")},
    )


def _unfit(fields: Fields, tests: Sequence[Any], rating: float | None) -> str | None:
    """Why a sound row cannot be graded here."""
    reasons = {
        "without a rating": rating is None,
        "without official tests": not tests,
        "official tests that are cut": fields.values.get("official_tests_complete") is False,
        "interactive": bool(fields.values.get("interaction_format")),
        "input or output is a file": fields.values.get("input_mode") not in (None, "stdio"),
        "several right outputs": bool(fields.values.get("generated_checker")),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _statement(fields: Fields) -> str:
    parts = [fields.text("description").strip()]
    for heading, key in (("Input", "input_format"), ("Output", "output_format"), ("Note", "note")):
        if text := fields.optional_text(key) if fields.values.get(key) != "" else None:
            parts.append(f"{heading}\n{text.strip()}")
    return "\n\n".join([*parts, *map(_example, _tests(fields, "examples"))])


def _example(test: Mapping[str, str]) -> str:
    return f"Example input\n{test['input'].strip()}\n\nExample output\n{test['output'].strip()}"


def _tests(fields: Fields, key: str) -> list[dict[str, str]]:
    """Inputs with their outputs; none where the row has none."""
    value = fields.values.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        fields.wrong(key, f"must be a list of tests, is {kind(value)}")
        return []
    tests = []
    for number, test in enumerate(value):
        if not (isinstance(test, dict) and all(isinstance(test.get(k), str) for k in ("input", "output"))):
            fields.wrong(f"{key}[{number}]", "must have texts input and output")
            return []
        tests.append({"input": test["input"], "output": test["output"]})
    return tests


CODEFORCES = Benchmark("codeforces", "open-r1/codeforces (test)", "program", _codeforces)
