"""Folders that are there whole or not at all: written under another name, which is changed at the end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist

from r1mega.track.files import sync_path

T = TypeVar("T")


class FolderError(ValueError):
    """A folder that cannot be read as the model's, or written; the message names every reason."""


@contextmanager
def whole_folder(folder: Path, beside: Sequence[Path] = ()) -> Iterator[Path]:
    """Where to write what is to become `folder`; all ranks enter it, and leave it together.

    What an earlier attempt left is thrown away; after a failure within, `folder` is as before.

    Args:
        beside: files to copy into it.

    Raises:
        FolderError: on every rank; `folder` has something in it, which is not overwritten.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    fault = None
    if dist.get_rank() == 0:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            fault = f"{folder}: exists and is not empty"
        else:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
    fault = from_first_rank(fault)
    if fault:
        raise FolderError(fault)
    yield partial
    dist.barrier()
    if dist.get_rank() == 0:
        for file in beside:
            shutil.copyfile(file, partial / file.name)
        _flush(partial)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
        sync_path(folder.parent)
    dist.barrier()


def from_first_rank(value: T) -> T:
    """Rank 0's value, on every rank."""
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def _flush(folder: Path) -> None:
    """Wait until the disk holds the files and the folder's list of them."""
    for path in [*folder.iterdir(), folder]:
        sync_path(path)
