"""Megatron's distributed checkpoints of a model's weights: saved under one layout, read under any other.

The format is Megatron's `torch_dist`, which Megatron and Megatron-Bridge read too. Beside it lies
config.json with the model's HF fields, so that a folder says by itself what it holds.

Nothing in such a folder is trusted: the two files that are pickles are read as plain data before
Megatron reads them, and refused where they name anything else.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor, apply_factories
from megatron.core.transformer.utils import ensure_metadata_has_dp_cp_group
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from r1mega.weights.megatron_write import BACKEND, Writing
from r1mega.weights.whole import FolderError, from_first_rank, whole_folder

DESCRIPTION, INDEX, COMMON = "metadata.json", ".metadata", "common.pt"


def save(
    folder: Path, chunks: Sequence[torch.nn.Module], config: dict[str, Any], beside: Sequence[Path] = ()
) -> None:
    """Write the weights of all ranks' chunks, and config.json; every rank writes its own part.

    Args:
        chunks: this rank's GPTModels, one a virtual pipeline stage.
        config: the model's HF fields.
        beside: files to copy into the folder.

    Raises:
        FolderError: on every rank; the folder is there and not empty, or cannot be written.
    """
    with whole_folder(folder, beside) as partial:
        try:
            Writing(sharded_weights(chunks), partial).close()
        except OSError as error:
            raise FolderError(f"{folder}: cannot be written: {error}") from error
        if dist.get_rank() == 0:
            (partial / "config.json").write_text(json.dumps(config, indent=1))


def load(folder: Path, chunks: Sequence[torch.nn.Module]) -> None:
    """Take the weights of a checkpoint, whatever layout it was saved under, cast to the parameters' dtype.

    Raises:
        FolderError: on every rank; files damaged, foreign or gone, weights missing, left over or misshapen.
    """
    wanted: list[dict[str, tuple[int, ...]]] = [{}] * dist.get_world_size()
    dist.all_gather_object(wanted, _shapes(chunks))
    faults: list[str] = []
    if dist.get_rank() == 0:
        faults = _faults(folder, {name: shape for of_rank in wanted for name, shape in of_rank.items()})
    faults = from_first_rank(faults)
    if faults:
        raise FolderError(f"{folder} does not hold this model's weights:\n  " + "\n  ".join(faults))
    loaded = dist_checkpointing.load(sharded_weights(chunks), str(folder))
    for number, chunk in enumerate(chunks):
        chunk.load_state_dict(loaded[f"model{number}"], strict=False)


def sharded_weights(chunks: Sequence[torch.nn.Module]) -> dict[str, Any]:
    """Megatron's description of each chunk's weights.

    Without Transformer Engine's scaling state: it is bytes that would have to be unpickled.
    """
    metadata = ensure_metadata_has_dp_cp_group(None)
    return {
        f"model{number}": {
            name: value
            for name, value in chunk.sharded_state_dict(metadata=metadata).items()  # type: ignore[operator]
            if not isinstance(value, ShardedObject)
        }
        for number, chunk in enumerate(chunks)
    }


def _shapes(chunks: Sequence[torch.nn.Module]) -> dict[str, tuple[int, ...]]:
    """Shape of each whole tensor that a checkpoint must have for these chunks."""
    sharded = sharded_weights(chunks)
    apply_factories(sharded)
    return {
        tensor.key: tuple(tensor.global_shape)
        for tensor in nested_values(sharded)
        if isinstance(tensor, ShardedTensor)
    }


def _faults(folder: Path, wanted: dict[str, tuple[int, ...]]) -> list[str]:
    """Why the folder is not a checkpoint of a model with tensors of these shapes."""
    faults, held = _read_faults(folder)
    if faults:
        return faults
    faults = [f"{name}: not in the folder" for name in sorted(wanted.keys() - held.keys())]
    faults += [f"{name}: no weight of this model" for name in sorted(held.keys() - wanted.keys())]
    faults += [
        f"{name}: has shape {held[name]}; this model needs {wanted[name]}"
        for name in sorted(wanted.keys() & held.keys())
        if held[name] != wanted[name]
    ]
    return faults


def _read_faults(folder: Path) -> tuple[list[str], dict[str, tuple[int, ...]]]:
    """What is wrong with the checkpoint's own files, and the shapes of the tensors in it."""
    held: dict[str, tuple[int, ...]] = {}
    name = DESCRIPTION
    try:
        backend = json.loads((folder / name).read_text())["sharded_backend"]
        if backend != BACKEND:
            return [f"{name}: sharded_backend was {backend!r}; it must be {BACKEND!r}"], held
        name = COMMON
        torch.load(folder / name, weights_only=True)
        name = INDEX
        entries = read_index(folder / name).state_dict_metadata
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        return [f"{name}: cannot be read ({str(error).splitlines()[0]})"], held
    for key, entry in entries.items():
        if isinstance(entry, TensorStorageMetadata):
            held[key] = tuple(entry.size)
    return [], held


_METADATA = (
    "BytesStorageMetadata",
    "ChunkStorageMetadata",
    "Metadata",
    "MetadataIndex",
    "StorageMeta",
    "TensorProperties",
    "TensorStorageMetadata",
    "_MEM_FORMAT_ENCODING",
)
_PLANNER = ("BytesIOWriteData", "SavePlan", "TensorWriteData", "WriteItem", "WriteItemType")


class _PlainData(pickle.Unpickler):
    """Reads a pickle that names nothing but what a list of tensors is made of."""

    KNOWN = frozenset(
        {
            "collections.OrderedDict",
            "torch.Size",
            "torch.distributed.checkpoint.filesystem._StorageInfo",
            "torch.serialization._get_layout",
            *(f"torch.distributed.checkpoint.metadata.{name}" for name in _METADATA),
            *(f"torch.distributed.checkpoint.planner.{name}" for name in _PLANNER),
            *(str(value) for value in vars(torch).values() if isinstance(value, torch.dtype)),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in self.KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no list of tensors needs")
        return super().find_class(module, name)


def read_index(path: Path) -> Metadata:
    """A checkpoint's list of its tensors.

    Raises:
        UnpicklingError: the file names a function or class that such a list does not need.
    """
    return _PlainData(io.BytesIO(path.read_bytes())).load()
