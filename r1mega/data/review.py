"""`review.jsonl`: right answers that a person screens before a model learns from them.

A row has `keep` (true or false), `prompt` and `answer`; the person turns `keep`, mends an answer or takes
rows out. Read back, every row that is not of that shape is named by file and line, all at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from r1mega.data.files import BadRow, DataFileError, rows

_TEXTS = ("prompt", "answer", "language", "kind")


def read_review(path: str | Path) -> list[dict[str, Any]]:
    """The rows of an edited review, in the file's order. Raises `DataFileError`."""
    found, faults = [], []
    for row in rows(path):
        wrong = [row.fault] if isinstance(row, BadRow) else _faults(row.values)
        faults += [f"{path}:{row.number}: {fault}" for fault in wrong]
        if not isinstance(row, BadRow):
            found.append(row.values)
    if not faults and not any(row["keep"] for row in found):
        faults.append(f"{path}: keeps no answer")
    if faults:
        raise DataFileError(faults)
    return found


def _faults(row: dict[str, Any]) -> list[str]:
    faults = [
        f"`{name}` was {row.get(name)!r}; must be a text"
        for name in _TEXTS
        if not isinstance(row.get(name), str) or not row[name].strip()
    ]
    if not isinstance(row.get("keep"), bool):
        faults.append(f"`keep` was {row.get('keep')!r}; must be true or false")
    return faults
