"""Rows of a parquet file, a batch at a time.

Guarantees that a row whose values Python cannot hold (text that is not UTF-8, say) is reported and
the others are read; damage inside the file is reported at the first row that it hides. Refuses a
file whose footer cannot be read and one with two columns of a name. Needs pyarrow, imported on use.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BATCH_ROWS = 256


class NotParquet(ValueError):
    """Why the file as a whole cannot be read."""


def parquet_rows(path: str | Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Numbered rows, each its values by column, or the fault that hides it. Raises `NotParquet`."""
    import pyarrow as pa

    file, number = _opened(path), 0
    with file:
        try:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for at in range(batch.num_rows):
                    number += 1
                    yield number, _row(batch, at)
        except (OSError, pa.ArrowException) as error:
            yield number + 1, f"the file is damaged from here on ({_first_line(error)})"


def _opened(path: str | Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
    except (OSError, pa.ArrowException) as error:
        raise NotParquet(f"is no whole parquet file ({_first_line(error)})") from error
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise NotParquet(f"has two columns named {twice[0][:40]!r}")
    return file


def _row(batch: Any, at: int) -> dict[str, Any] | str:
    values = {}
    for name in batch.schema.names:
        try:
            values[name] = batch.column(name)[at].as_py()
        except UnicodeDecodeError:
            return f"{name} is not UTF-8"
        except (ValueError, OverflowError) as error:  # a date of the year 30,000
            return f"{name} cannot be read ({_first_line(error)})"
    return values


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
