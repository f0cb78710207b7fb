"""The rows of a published table: JSONL, parquet or CSV, in one file or in several of a folder.

Guarantees rows in the order of the file names and within each file, numbered as `files` does; in CSV by
the line on which a row ends. A row of CSV with too many or too few columns is a `BadRow`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from r1mega.data.files import BadRow, DataFileError, Row, rows

_SUFFIXES = (".csv", ".jsonl", ".json", ".parquet", ".pq")
_ROW_BYTES = 512 * 2**20  # LiveCodeBench has rows of tens of megabytes of tests


def tables(path: str | Path) -> list[Path]:
    """The data files that a path names. Raises `DataFileError` for a folder without one."""
    folder = Path(path)
    if not folder.is_dir():
        return [folder]
    found = sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES)
    if not found:
        raise DataFileError([f"{path}: holds no file of {', '.join(_SUFFIXES)}"])
    return found


def numbered_rows(table: Path) -> Iterator[Row | BadRow]:
    """The rows of one file. Raises `DataFileError` where the file as a whole cannot be used."""
    return _csv_rows(table) if table.suffix.lower() == ".csv" else rows(table, limit_bytes=_ROW_BYTES)


def _csv_rows(table: Path) -> Iterator[Row | BadRow]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for values in reader:
                if None in values or None in values.values():
                    columns = len(reader.fieldnames or ())
                    yield BadRow(reader.line_num, f"has not the {columns} columns of the first line")
                else:
                    yield Row(reader.line_num, dict(values))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataFileError([f"{table}: cannot be read ({error})"]) from error
