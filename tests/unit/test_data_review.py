"""An edited review comes back as it was, or is refused with every wrong row named."""

from __future__ import annotations

from pathlib import Path

import pytest

from r1mega.data.files import DataFileError
from r1mega.data.review import read_review
from r1mega.track import jsonl

GOOD = {"keep": True, "prompt": "1 + 1?", "answer": "2", "language": "en", "kind": "reasoning", "against": []}


def test_it_comes_back_as_written(tmp_path: Path) -> None:
    file = tmp_path / "review.jsonl"
    rows = [GOOD, GOOD | {"keep": False, "answer": "二"}]
    jsonl.write(file, rows)
    assert read_review(file) == rows


def test_every_wrong_row_is_named(tmp_path: Path) -> None:
    file = tmp_path / "review.jsonl"
    jsonl.write(file, [GOOD | {"keep": "yes"}, GOOD, GOOD | {"answer": " "}, {"keep": True}])
    with file.open("a") as out:
        out.write('{"keep": tru\n')
    with pytest.raises(DataFileError) as error:
        read_review(file)
    faults = error.value.faults
    assert [fault.split(": ")[0] for fault in faults] == [
        f"{file}:{number}" for number in (1, 3, 4, 4, 4, 4, 5)
    ]
    assert "`keep` was 'yes'; must be true or false" in faults[0]


def test_a_review_that_keeps_nothing_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "review.jsonl"
    jsonl.write(file, [GOOD | {"keep": False}])
    with pytest.raises(DataFileError, match="keeps no answer"):
        read_review(file)
