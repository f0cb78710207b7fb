"""Files of one JSON object a line: `metrics.jsonl` (a row a rollout or update) and `samples.jsonl`.

Guarantees: rows are on the disk when `append` returns, in the order given, with every key they came
with. Each line is strict JSON: NaN and infinities, which JSON has not, become null. A null thus
says "measured, and not a finite number"; what was not measured has no key. A line torn by a kill is
not read, and the next append removes it.

Refuses a damaged line anywhere else, and values that are not plain (tensors, arrays). One process
writes a file.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from r1mega.track.files import sync, write_atomic

Row = Mapping[str, Any]


def append(path: Path, *rows: Row) -> None:
    """Add rows to the end of the file, which is created if there is none.

    Raises TypeError for a value that JSON cannot hold; nothing is written then.
    """
    # A lone surrogate becomes its escape, see `write_atomic`.
    lines = "".join(_line(row) for row in rows).encode("utf-8", "backslashreplace")
    with path.open("ab+") as file:
        _cut_torn_line(file)
        file.write(lines)
        file.flush()
        sync(file.fileno())


def write(path: Path, rows: Iterable[Row]) -> None:
    """Make a file of these rows alone, which is there whole or not at all."""
    write_atomic(path, "".join(_line(row) for row in rows))


def read(path: Path) -> list[dict[str, Any]]:
    """All whole rows of the file, in order; none if there is no file.

    Raises ValueError, with the file's name and the line's number, for a line that is not an object.
    """
    if not path.exists():
        return []
    # Bytes, since a torn line may end inside a character; and split, not splitlines, which would
    # also cut at a carriage return.
    *whole, _torn = path.read_bytes().split(b"\n")
    return [_parse(line, path, number) for number, line in enumerate(whole, start=1)]


def cut(path: Path, size: int) -> None:
    """Shorten the file to its first `size` bytes: what was written past a state that a run goes on from.

    Raises ValueError, with the file's name, where it is shorter than that.
    """
    held = path.stat().st_size if path.exists() else 0
    if held < size:
        raise ValueError(f"{path}: has {held} bytes; the state that the run goes on from was saved at {size}")
    if held > size:
        os.truncate(path, size)


def _line(row: Row) -> str:
    return json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """The value with every NaN and infinity in it, however deep, replaced by None."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{path}:{number}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{path}:{number}: a row is an object, this is a {type(row).__name__}")
    return row


def _cut_torn_line(file: Any) -> None:
    """Shorten an open file to the end of its last whole line."""
    size = end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 4096)
        file.seek(start)
        at = file.read(end - start).rfind(b"\n")
        if at >= 0:
            end = start + at + 1
            break
        end = start
    if end < size:
        file.truncate(end)
