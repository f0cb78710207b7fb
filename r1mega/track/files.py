"""Writing a file so that a reader meets the old one or the new one, never half of either."""

import os
from pathlib import Path


def write_atomic(path: Path, text: str) -> None:
    """Write `text` as UTF-8 beside `path`, flush it to the disk and rename it over `path`.

    A lone surrogate, which a model's answer may hold and UTF-8 cannot, is written as its escape
    (backslash, u, four digits); in JSON that is the very same character.

    Raises OSError where the folder cannot be written; `path` is then as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(text.encode("utf-8", "backslashreplace"))
            sync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        sync(folder)  # the rename itself, too, must outlive a power cut
    finally:
        os.close(folder)


def sync(descriptor: int) -> None:
    """Wait until the disk holds what was written to an open file or folder."""
    os.fsync(descriptor)
