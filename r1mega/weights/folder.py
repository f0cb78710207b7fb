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
from safetensors import safe_open
from safetensors.torch import save_file

from r1mega.weights.pieces import Piece
from r1mega.weights.source import MegatronSource

SHARD_BYTES = 4 * 1024**3
INDEX = "model.safetensors.index.json"


def read(folder: Path, pieces: Sequence[Piece], names: Sequence[str]) -> None:
    """Fill this rank's pieces from the folder's safetensors, cast to the parameters' dtype.

    Args:
        names: every HF name of the model, over all ranks.

    Raises:
        ValueError: names missing, left over or misshapen, all of them by name.
    """
    files = _files_by_name(folder)
    missing, unknown = sorted(set(names) - files.keys()), sorted(files.keys() - set(names))
    faults = [f"{name}: not in the folder" for name in missing]
    faults += [f"{name}: no weight of this model" for name in unknown]
    by_file: dict[Path, list[Piece]] = {}
    for piece in pieces:
        if piece.place.name in files:
            by_file.setdefault(files[piece.place.name], []).append(piece)
    for file, wanted in by_file.items():
        with safe_open(file, "pt") as store:
            faults += [fault for piece in wanted if (fault := _misshapen(store, piece))]
    if faults:
        raise ValueError(f"{folder} does not hold this model's weights:\n  " + "\n  ".join(faults))
    for file, wanted in by_file.items():
        with safe_open(file, "pt") as store:
            for piece in wanted:
                _fill(store, piece)


def _files_by_name(folder: Path) -> dict[str, Path]:
    index = folder / INDEX
    if index.exists():
        return {name: folder / file for name, file in json.loads(index.read_text())["weight_map"].items()}
    found: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as store:
            found |= dict.fromkeys(store.keys(), file)
    return found


def _misshapen(store: Any, piece: Piece) -> str | None:
    shape = tuple(store.get_slice(piece.place.name).get_shape())
    if shape == piece.place.shape:
        return None
    return f"{piece.place.name}: has shape {shape}; this model needs {piece.place.shape}"


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
