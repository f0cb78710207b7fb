"""Questions from a file of one's own: JSONL, one object with `question` and `answer` a line.

An optional `id` names a question; other keys are let be. Reading guarantees distinct texts and ids
and reports every bad line at once, by file and line. It refuses bad JSON, missing, empty or
non-text values, text that is not UTF-8, an id used twice, and one question with two different
answers. A question that is repeated with the same answer is kept once, with a warning; blank lines
are skipped.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r1mega.data.question import Question, Questions, question_id
from r1mega.data.tasks import TooFewQuestionsError, shuffled

TASK = "prompts_file"
"""The `task` of questions that come from a file; they are graded by math-verify."""
_SHOWN = 50

_log = logging.getLogger(__name__)


class PromptFileError(ValueError):
    """A prompts file that cannot be used.

    `faults` has one line each; `shown` are the first of them, and str() is `shown`, ready to print.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        more = len(faults) - _SHOWN
        self.shown = (*faults[:_SHOWN], *([f"... and {more} more"] if more > 0 else []))
        super().__init__("\n".join(self.shown))


def read_prompts(path: str | Path) -> list[Question]:
    """The file's questions in its order. Raises `PromptFileError`."""
    reader = _Reader(str(path))
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            reader.add(number, line)
    if not (reader.faults or reader.by_text):
        reader.faults.append(f"{path}: holds no question")
    if reader.faults:
        raise PromptFileError(reader.faults)
    if reader.repeats:
        _log.warning("%s: %d repeated questions were kept once each", path, reader.repeats)
    return list(reader.by_text.values())


def split(questions: Sequence[Question], train: int, held_out: int, seed: int) -> Questions:
    """Set `held_out` questions apart at random, and keep up to `train` of the others.

    The held-out set does not depend on `train`. Raises `TooFewQuestionsError` if nothing is left to
    train on.
    """
    if len(questions) <= held_out:
        raise TooFewQuestionsError(
            f"data.held_out_questions: was {held_out}; must leave at least one of the"
            f" {len(questions)} distinct questions of the prompts file to train on"
        )
    mixed = shuffled(questions, f"split:{seed}")
    return Questions(train=mixed[held_out : held_out + train], held_out=mixed[:held_out])


def _lines(path: str | Path) -> list[bytes]:
    try:
        return Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise PromptFileError([f"{path}: cannot be read ({error.strerror})"]) from error


class _Reader:
    """Takes the lines of one file, keeping questions and faults."""

    def __init__(self, path: str) -> None:
        self.faults: list[str] = []
        self.by_text: dict[str, Question] = {}
        self.repeats = 0
        self._path = path
        self._line_of_text: dict[str, int] = {}
        self._line_of_id: dict[str, int] = {}

    def add(self, number: int, line: bytes) -> None:
        try:
            question = _parse(line)
        except ValueError as error:
            self.faults.append(f"{self._path}:{number}: {error}")
            return
        known = self.by_text.get(question.text)
        if known is not None:
            self._add_repeat(number, question, known)
        elif question.id in self._line_of_id:
            first = self._line_of_id[question.id]
            self.faults.append(f"{self._path}:{number}: id {question.id!r} is that of line {first}")
        else:
            self.by_text[question.text] = question
            self._line_of_text[question.text] = self._line_of_id[question.id] = number

    def _add_repeat(self, number: int, question: Question, known: Question) -> None:
        self.repeats += 1
        if question.answer != known.answer:
            first = self._line_of_text[question.text]
            self.faults.append(
                f"{self._path}:{number}: the question of line {first} again, with another answer"
            )


def _parse(line: bytes) -> Question:
    """The question of one line. Raises ValueError with the fault."""
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start + 1} of the line)") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} (column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # a number too long, brackets too deep
        raise ValueError(f"not usable JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"must be an object with question and answer, is {_kind(row)}")
    faults = [f for key in ("question", "answer", "id") for f in _value_faults(row, key)]
    if faults:
        raise ValueError("; ".join(faults))
    return Question(
        id=row.get("id") or question_id(row["question"]),
        text=row["question"],
        answer=row["answer"],
        task=TASK,
    )


def _value_faults(row: dict[str, Any], key: str) -> list[str]:
    if key not in row:
        return [] if key == "id" else [f"{key} is missing"]
    value = row[key]
    if not isinstance(value, str):
        return [f"{key} must be a text, is {_kind(value)}"]
    if not value.strip():
        return [f"{key} is empty"]
    try:
        value.encode()
    except UnicodeEncodeError:
        return [f"{key} holds half of a surrogate pair"]
    return []


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")
