"""The hash of a file or folder by what it holds: a copy has the same, a changed byte another.

Large files are read once: their hashes are kept in a hidden file of the runs' folder, and hold as long
as the file's size and time of change (in nanoseconds) do. They are not kept beside the files hashed,
which may be on a disk that is not ours to write. Small files are always read.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from r1mega.track.files import sha256_of, write_atomic

LARGE_BYTES = 1024**2


class Contents:
    """Hashes of files and folders; `keep` writes down those of the large files."""

    def __init__(self, runs_dir: Path) -> None:
        self._file = runs_dir / ".contents.json"
        self._kept: dict[str, list[object]] = _read(self._file)
        self._changed = False

    def hash_of(self, path: Path) -> str:
        """SHA-256 in hexadecimal; of a folder, that of its files' names and hashes, hidden ones left out.

        `absent` where there is nothing.
        """
        if path.is_dir():
            lines = [f"{name} {self._of_file(path / name)}" for name in sorted(_files(path))]
            return hashlib.sha256("\n".join(lines).encode()).hexdigest()
        return self._of_file(path) if path.exists() else "absent"

    def keep(self) -> None:
        """Write down what was hashed anew; where that cannot be written, it is hashed again next time."""
        if not self._changed:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._file, json.dumps(self._kept, indent=1))
        except OSError:
            return

    def _of_file(self, path: Path) -> str:
        status = path.stat()
        if status.st_size < LARGE_BYTES:
            return sha256_of(path)
        name, stamp = str(path.resolve()), [status.st_size, status.st_mtime_ns]
        known = self._kept.get(name, [])
        if known[:2] == stamp:
            return str(known[2])
        found = sha256_of(path)
        self._kept[name] = [*stamp, found]
        self._changed = True
        return found


def _files(folder: Path) -> list[str]:
    """The files below a folder, by their path in it."""
    below = (path for path in folder.rglob("*") if path.is_file())
    names = (path.relative_to(folder) for path in below)
    return [str(name) for name in names if not any(part.startswith(".") for part in name.parts)]


def _read(file: Path) -> dict[str, list[object]]:
    try:
        kept = json.loads(file.read_text())
    except (OSError, ValueError):  # not there, or damaged: everything is hashed again
        return {}
    return kept if isinstance(kept, dict) else {}
