"""HF folders: safetensors read into Megatron's shards, and written from them.

Reading takes only what a rank's pieces need, slice by slice. Names that are missing, left over or of
another shape stop it, all of them in one message, before anything is copied.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from r1mega.weights.pieces import Piece
from r1mega.weights.source import MegatronSource, TensorMeta

SHARD_BYTES = 4 * 1024**3
INDEX = "model.safetensors.index.json"


class FolderError(ValueError):
    """A folder that does not hold the model's weights; the message names every difference."""


def read(folder: Path, pieces: Sequence[Piece], metas: Sequence[TensorMeta]) -> None:
    """Fill this rank's pieces from the folder's safetensors, cast to the parameters' dtype.

    Args:
        metas: every tensor of the model, over all ranks, so that all ranks refuse what one cannot take.

    Raises:
        FolderError: names missing, left over or misshapen, files damaged or gone; all of them by name.
    """
    held = _held(folder)
    faults = sorted(filter(None, (_fault(meta, held) for meta in metas)))
    known = {meta.name for meta in metas}
    faults += [f"{name}: no weight of this model" for name in sorted(held.keys() - known)]
    if faults:
        raise _refusal(folder, faults)
    by_file: dict[Path, list[Piece]] = {}
    for piece in pieces:
        by_file.setdefault(held[piece.place.name][0], []).append(piece)
    for file, wanted in by_file.items():
        with safe_open(file, "pt") as store:
            for piece in wanted:
                _fill(store, piece)


def _held(folder: Path) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """The file and the shape of each tensor in the folder."""
    held: dict[str, tuple[Path, tuple[int, ...]]] = {}
    faults = []
    for file in _files(folder):
        try:
            with safe_open(file, "pt") as store:
                names = list(store.keys())
                held |= {name: (file, tuple(store.get_slice(name).get_shape())) for name in names}
        except (OSError, SafetensorError) as error:
            faults.append(f"{file.name}: cannot be read ({error})")
    if faults:
        raise _refusal(folder, faults)
    return held


def _files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if index.exists():
        return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    return sorted(folder.glob("*.safetensors"))


def _fault(meta: TensorMeta, held: dict[str, tuple[Path, tuple[int, ...]]]) -> str | None:
    if meta.name not in held:
        return f"{meta.name}: not in the folder"
    _, shape = held[meta.name]
    return None if shape == meta.shape else f"{meta.name}: has shape {shape}; this model needs {meta.shape}"


def _refusal(folder: Path, faults: Sequence[str]) -> FolderError:
    return FolderError(f"{folder} does not hold this model's weights:\n  " + "\n  ".join(faults))


def _fill(store: Any, piece: Piece) -> None:
    place = piece.place
    box = tuple(slice(a, a + n) for a, n in zip(place.start, place.size, strict=True))
    piece.tensor.copy_(store.get_slice(place.name)[box])


def write(folder: Path, source: MegatronSource, config: dict[str, Any]) -> None:
    """Write config.json and the weights; all ranks call it, rank 0 writes.

    Shards are cut at `SHARD_BYTES`, so no rank holds more than one file's weights.
    """
    rank0 = dist.get_rank() == 0
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, torch.Tensor]] = [{}]
    weight_map: dict[str, str] = {}
    files = 0

    def flush() -> None:
        nonlocal files
        files += 1
        name = f"model-{files:05d}.safetensors"
        if rank0:
            save_file(shards[0], folder / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shards[0], name))
        shards[0] = {}

    for names, tensors in source.iter_groups():
        for name, tensor in zip(names, tensors, strict=True):
            shards[0][name] = tensor.cpu().clone()
        if sum(tensor.nbytes for tensor in shards[0].values()) >= SHARD_BYTES:
            flush()
    if shards[0]:
        flush()
    if rank0:
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=1))
        (folder / "config.json").write_text(json.dumps(config, indent=1))
    dist.barrier()
