"""What a benchmark is, and the one way that its rows become questions.

Guarantees: questions come in the file's order, each with an id of its own that is stable over runs; every
row is a question, a fault that names file and line, or left out with a reason that is logged. Unlike data
to train on, a row that stands twice is asked twice: the published figures count it so.

Refuses (`DataFileError`, all at once) broken rows, an id that is another row's, a file or folder without
a question.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

from r1mega.data.benchmarks.tables import numbered_rows, tables
from r1mega.data.benchmarks.values import has_half_a_pair
from r1mega.data.fields import Fields
from r1mega.data.files import BadRow, DataFileError, Row
from r1mega.data.question import Question, question_id

Adapt = Callable[[Fields, int], "Question | str"]
"""Makes a row's question by a seed, or says why the row is left out; what is wrong goes to the fields."""

_log = logging.getLogger(__name__)


@final
@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark: its name, the data set it was published as, and who tells right from wrong.

    `graded_by` is "mathematics", "letter", "program" (which needs the sandbox) or "harness" (an outside
    one: the grader calls every answer wrong).
    """

    name: str
    source: str
    graded_by: str
    adapt: Adapt

    def read(self, path: str | Path, seed: int = 0) -> list[Question]:
        """The questions of a file, or of all data files in a folder. Raises `DataFileError`.

        `seed` orders the options of a question that was published with the right one first.
        """
        reading = _Reading()
        for table in tables(path):
            try:
                for row in numbered_rows(table):
                    self._read_row(reading, f"{table}:{row.number}", row, seed)
            except DataFileError as error:
                reading.faults += error.faults
        return reading.finish(str(path))

    def _read_row(self, reading: _Reading, where: str, row: Row | BadRow, seed: int) -> None:
        if isinstance(row, BadRow):
            reading.faults.append(f"{where}: {row.fault}")
            return
        fields = Fields(row.values)
        found = self.adapt(fields, seed)
        if isinstance(found, Question) and has_half_a_pair([found.text, found.answer, found.entry]):
            fields.faults.append("a text holds half of a surrogate pair")
        reading.take(self.name, where, found, fields.faults)


@dataclass(slots=True)
class _Reading:
    """What has been read so far."""

    faults: list[str] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    where: dict[str, str] = field(default_factory=dict)
    texts: Counter[str] = field(default_factory=Counter)

    def take(self, name: str, where: str, found: Question | str, faults: list[str]) -> None:
        if faults:
            self.faults.append(f"{where}: {'; '.join(faults)}")
        elif isinstance(found, str):
            self.left_out[found] += 1
        else:
            self._keep(where, replace(found, id=f"{name}/{found.id or self._unnamed(found.text)}"))

    def finish(self, path: str) -> list[Question]:
        for reason, rows in self.left_out.items():
            _log.warning("%s: %d rows were left out: %s", path, rows, reason)
        if not (self.faults or self.questions):
            self.faults.append(f"{path}: holds no question that can be asked")
        if self.faults:
            raise DataFileError(self.faults)
        return self.questions

    def _keep(self, where: str, question: Question) -> None:
        first = self.where.setdefault(question.id, where)
        if first != where:
            self.faults.append(f"{where}: has the id of {first}, {question.id!r}")
        self.questions.append(question)

    def _unnamed(self, text: str) -> str:
        """An id for a row that brings none; the second one of a text is #2."""
        self.texts[text] += 1
        times = self.texts[text]
        return question_id(text) + (f"#{times}" if times > 1 else "")
