"""Rows of a data file of one's own, JSONL or parquet, told apart by how the file begins.

Guarantees: every row comes in order with its number, that of its line in JSONL, counted from 1 in
parquet; a row that cannot be read comes as a `BadRow` and those after it are still read. Blank lines
of JSONL are skipped. Of JSONL no more than one line is held.

Refuses, with one message for the whole file: what is not there or is no file, an empty one, and
what is plainly something else (compressed, a folder, CSV, one JSON list, UTF-16, a pointer of Git
LFS, a web page).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from r1mega.data.strict_json import LIMIT_BYTES, NotUsable, parse

_SHOWN = 50
_PARQUET = b"PAR1"
_BOM = b"\xef\xbb\xbf"
_BEGINNINGS = (
    (b"\x1f\x8b", "is gzip: unpack it first (gunzip)"),
    (b"\x28\xb5\x2f\xfd", "is compressed by zstd: unpack it first (unzstd)"),
    (b"BZh", "is compressed by bzip2: unpack it first (bunzip2)"),
    (b"\xfd7zXZ", "is compressed by xz: unpack it first (unxz)"),
    (b"PK\x03\x04", "is a zip archive: unpack it first (unzip)"),
    (b"ARROW1", "is an Arrow file: write it as parquet"),
    (b"\xff\xfe", "is UTF-16: write it as UTF-8"),
    (b"\xfe\xff", "is UTF-16: write it as UTF-8"),
    (b"version https://git-lfs", "is only Git LFS's pointer to the file: fetch it (git lfs pull)"),
    (b"<", "is a web page or XML: download the file itself"),
)
_CSV_HEADER = re.compile(rb'"?[A-Za-z_]\w*"?([,;\t]"?[A-Za-z_]\w*"?)+')
_JSON_LIST = re.compile(rb"\[\s*(\{.*)?")


class DataFileError(ValueError):
    """A data file that cannot be used.

    `faults` has one line each; `shown` are the first of them, and str() is `shown`, ready to print.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        more = len(faults) - _SHOWN
        self.shown = (*faults[:_SHOWN], *([f"... and {more} more"] if more > 0 else []))
        super().__init__("\n".join(self.shown))


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One row's values by key."""

    number: int
    values: dict[str, Any]


@final
@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be read, and why."""

    number: int
    fault: str


def rows(path: str | Path, limit_bytes: int = LIMIT_BYTES) -> Iterator[Row | BadRow]:
    """The file's rows in order; a line of JSONL may have so many bytes.

    Raises `DataFileError` if the file as a whole cannot be used.
    """
    beginning = _beginning(Path(path))
    if beginning.startswith(_PARQUET):
        from r1mega.data.parquet import NotParquet, parquet_rows

        try:
            for number, values in parquet_rows(path):
                yield BadRow(number, values) if isinstance(values, str) else Row(number, values)
        except NotParquet as error:
            raise DataFileError([f"{path}: {error}"]) from error
        return
    if fault := _other_kind(Path(path), beginning):
        raise DataFileError([f"{path}: {fault}"])
    for number, line in _lines(Path(path), limit_bytes):
        if row := _json_row(number, line, limit_bytes):
            yield row


def _beginning(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            what = "it is a folder" if path.is_dir() else "it is no regular file"
            raise DataFileError([f"{path}: cannot be read ({what}; name one JSONL or parquet file)"])
        with path.open("rb") as file:
            return file.read(4096)
    except OSError as error:
        raise DataFileError([f"{path}: cannot be read ({error.strerror})"]) from error


def _other_kind(path: Path, beginning: bytes) -> str | None:
    """What the file is instead of JSONL, and what to do with it; None if it may be JSONL."""
    if not beginning:
        return "is empty"
    if path.suffix.lower() in (".parquet", ".pq"):
        return f"is no parquet file: it begins with {beginning[:4]!r}, not with {_PARQUET!r}"
    for start, fault in _BEGINNINGS:
        if beginning.startswith(start):
            return fault
    first = beginning.removeprefix(_BOM).lstrip().split(b"\n", 1)[0].strip()
    if _CSV_HEADER.fullmatch(first):
        return f"looks like CSV ({first[:60].decode()}): write it as JSONL, an object a line"
    if _JSON_LIST.fullmatch(first):
        return "is one JSON list: write it as JSONL, an object a line"
    return None


def _lines(path: Path, limit_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Numbered lines; of one that is too long comes only enough to see that."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(limit_bytes + 1):
            number += 1
            yield number, line.removeprefix(_BOM) if number == 1 else line
            while len(line) > limit_bytes and not line.endswith(b"\n"):
                line = file.readline(limit_bytes + 1) or b"\n"


def _json_row(number: int, line: bytes, limit_bytes: int) -> Row | BadRow | None:
    if not line.strip():
        return None
    try:
        return Row(number, parse(line.rstrip(b"\r\n"), limit_bytes))
    except NotUsable as error:
        return BadRow(number, str(error))
