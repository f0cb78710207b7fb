"""The folder of a run's saved states: their names, what makes one whole, and which are kept.

    checkpoints/
      rollout-000010/       Megatron's distributed checkpoint, and beside it
        state.json          how far the run had come
        manifest.json       size and SHA-256 of every other file
      .rollout-000015.partial/   being written; never read

Guarantees: a state appears under its name whole, with all its files on the disk, or not at all; one whose
files are not those that were written is told by name and never loaded. Rank 0 alone changes the folder.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1mega.track.files import Digests, digest, sync_path, write_atomic

STATE, MANIFEST = "state.json", "manifest.json"
_NAME = re.compile(r"(?P<unit>rollout|update|pretrain)-(?P<number>\d{6,})")


@dataclass(frozen=True, slots=True, order=True)
class Saved:
    """A state's name: so many rollouts, or updates, are done."""

    unit: str
    number: int

    def __str__(self) -> str:
        return f"{self.unit}-{self.number:06d}"


class Store:
    """The states below one folder, of one unit each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def saved(self, unit: str) -> list[Saved]:
        """The states of this unit, newest first, whole by their names; their files are not looked into."""
        if not self.folder.is_dir():
            return []
        names = (_NAME.fullmatch(path.name) for path in self.folder.iterdir() if path.is_dir())
        found = (Saved(name["unit"], int(name["number"])) for name in names if name)
        return sorted((one for one in found if one.unit == unit), reverse=True)

    def path(self, saved: Saved) -> Path:
        """The folder of a state."""
        return self.folder / str(saved)

    def state(self, saved: Saved) -> dict[str, Any]:
        """How far the run had come."""
        state: dict[str, Any] = json.loads((self.path(saved) / STATE).read_text())
        return state

    def begin(self, saved: Saved) -> Path:
        """An empty folder to write a state's files into; what was cut off there is thrown away."""
        partial = self._partial(saved)
        for cut_off in self.folder.glob(".*.partial"):
            shutil.rmtree(cut_off, ignore_errors=True)
        partial.mkdir(parents=True)
        return partial

    def publish(self, saved: Saved, state: Mapping[str, Any], written: Digests) -> None:
        """Give what was written its name.

        Args:
            state: how far the run has come, as JSON.
            written: the `digest` of each of the files that are in the folder
                and on the disk; the others are added.
        """
        partial = self._partial(saved)
        write_atomic(partial / STATE, json.dumps(state, indent=1) + "\n")
        others = sorted(path.name for path in partial.iterdir() if path.name not in written)
        for name in others:
            sync_path(partial / name)
        files = {**written, **{name: digest(partial / name) for name in others}}
        write_atomic(partial / MANIFEST, json.dumps(files, indent=1))
        sync_path(partial)
        final = self.path(saved)
        if final.exists():  # a damaged one, or one that was saved before the run was told to stop
            self.remove(saved)
        partial.rename(final)
        sync_path(self.folder)

    def discard(self, saved: Saved) -> None:
        """Throw away what was written of a state that is not to be."""
        shutil.rmtree(self._partial(saved), ignore_errors=True)

    def faults(self, saved: Saved, part: int = 0, parts: int = 1) -> list[str]:
        """What is wrong with every `parts`-th of its files, from number `part` on."""
        folder = self.path(saved)
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            names = sorted(manifest)[part::parts]
            wanted = {name: (str(manifest[name]["sha256"]), int(manifest[name]["bytes"])) for name in names}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return [f"{MANIFEST}: cannot be read ({error})"]
        return [fault for name, of in wanted.items() if (fault := _fault(folder / name, *of))]

    def set_aside(self, saved: Saved) -> Path:
        """Take a damaged state out of the way, for a person to look at."""
        aside = self.folder / f"damaged-{saved}"
        shutil.rmtree(aside, ignore_errors=True)
        self.path(saved).rename(aside)
        return aside

    def prune(self, unit: str, keep_last: int, keep_every: int | None) -> None:
        """Remove the states of this unit but the latest, and those of every so many."""
        for one in self.saved(unit)[keep_last:]:
            if keep_every is None or one.number % keep_every:
                self.remove(one)

    def remove(self, saved: Saved) -> None:
        """Remove a state; cut short, nothing is left under its name."""
        going = self._partial(saved).with_suffix(".going.partial")
        shutil.rmtree(going, ignore_errors=True)
        self.path(saved).rename(going)
        shutil.rmtree(going, ignore_errors=True)

    def _partial(self, saved: Saved) -> Path:
        return self.folder / f".{saved}.partial"


def _fault(path: Path, sha256: str, size: int) -> str | None:
    try:
        held = path.stat().st_size
        if held != size:
            return f"{path.name}: has {held} bytes of {size}"
        return None if digest(path)["sha256"] == sha256 else f"{path.name}: its checksum is another"
    except OSError as error:
        return f"{path.name}: cannot be read ({error.strerror})"
