"""Files: a reader meets the old one or the new one, never half of either; and digests of what they hold."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Digests = Mapping[str, Mapping[str, Any]]
"""Of each file, by name, its `digest`."""


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
    sync_path(path.parent)  # the rename itself, too, must outlive a power cut


def sync_path(path: Path) -> None:
    """Wait until the disk holds a file, or a folder's list of its files."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(path: Path) -> dict[str, Any]:
    """A file's `sha256` and `bytes`."""
    return {"sha256": sha256_of(path), "bytes": path.stat().st_size}


def sync(descriptor: int) -> None:
    """Wait until the disk holds what was written to an open file or folder."""
    os.fsync(descriptor)
