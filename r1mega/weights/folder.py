"""HF folders: safetensors read into Megatron's shards, and written from them.

Reading takes only what a rank's pieces need, slice by slice. Names that are missing, left over or of
another shape stop it, all of them in one message, before anything is copied. Weights may be stored as
fp32, bf16, fp16 or DeepSeek's FP8 blocks (`r1mega.weights.fp8`); what else a folder holds is refused.

A *copy* is a tensor that a folder repeats under a second name, such as the embedding that a
multi-token-prediction layer shares. It may be there or not; where it is, it must be the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from r1mega.weights import fp8
from r1mega.weights.fp8_names import scale_shape
from r1mega.weights.pieces import Piece
from r1mega.weights.quantised import QuantisedSource, Source
from r1mega.weights.source import TensorMeta
from r1mega.weights.whole import FolderError, from_first_rank, whole_folder

FILE_BYTES = 4 * 1024**3
INDEX = "model.safetensors.index.json"

NUMBERS = ("F32", "BF16", "F16")
"""Dtypes, by safetensors' names, whose numbers are the weights themselves."""
CODES = "F8_E4M3"
STRIP_BYTES = 64 * 1024**2
"""How much of a copy is compared at a time."""

Progress = Callable[[int, int], None]
"""Told the bytes done so far and those in all."""


# Reading


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor of the folder is, and what it is."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    """By safetensors' name."""


def read(
    folder: Path,
    pieces: Sequence[Piece],
    metas: Sequence[TensorMeta],
    copies: Mapping[str, str],
    progress: Progress | None = None,
    *,
    spare: Collection[str] = (),
) -> None:
    """Fill this rank's pieces from the folder's safetensors, cast to the parameters' dtype.

    Args:
        metas: every tensor of the model, over all ranks, so that all ranks refuse what one cannot take.
        copies: names that may repeat a tensor, and that tensor's name.
        progress: told of this rank's part.
        spare: names of weights that the folder may have besides, and that nobody here wants.

    Raises:
        FolderError: on every rank; names missing, left over or misshapen, dtypes that are none of ours,
            FP8 without its scales, copies that differ, files damaged or gone; all of them by name.
    """
    held: dict[str, Stored] = {}
    faults: list[str] = []
    if dist.get_rank() == 0:
        held, faults = _inspect(folder, metas, copies, spare)
    held, faults = from_first_rank((held, faults))
    if faults:
        raise FolderError(f"{folder} does not hold this model's weights:\n  " + "\n  ".join(faults))
    done, total = 0, sum(piece.place.bytes for piece in pieces)
    with _Files(held) as files:
        # File by file, for the sake of disks that like it so.
        for piece in sorted(pieces, key=lambda piece: held[piece.place.name].file):
            piece.tensor.copy_(_box(files, piece.place.name, piece.place.start, piece.place.size))
            done += piece.place.bytes
            if progress is not None:
                progress(done, total)


class _Files(ExitStack):
    """The folder's files, each opened when first asked for."""

    def __init__(self, held: Mapping[str, Stored]) -> None:
        super().__init__()
        self._held = held
        self._open: dict[Path, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """A slice of the tensor of this name, which reads what it is indexed with."""
        file = self._held[name].file
        if file not in self._open:
            self._open[file] = self.enter_context(safe_open(file, "pt"))
        return self._open[file].get_slice(name)

    def dtype(self, name: str) -> str:
        """The tensor's dtype, by safetensors' name."""
        return self._held[name].dtype


def _box(files: _Files, name: str, start: Sequence[int], size: Sequence[int]) -> Tensor:
    """A box of the tensor; of FP8, its numbers in fp32."""
    box = files[name][tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))]
    if files.dtype(name) != CODES:
        return box
    scales = files[name + fp8.SCALE][fp8.blocks(start, size)]
    return fp8.dequantise(box, scales.float(), start)


def _inspect(
    folder: Path, metas: Sequence[TensorMeta], copies: Mapping[str, str], spare: Collection[str]
) -> tuple[dict[str, Stored], list[str]]:
    """The tensors in the folder, and why they are not the model's."""
    held, faults = _held(folder)
    faults += _quantisation_faults(folder)
    if faults:
        return held, faults
    faults = sorted(fault for meta in metas for fault in _weight_faults(meta, held))
    known = {*(meta.name for meta in metas), *spare}
    for name in sorted(held.keys() - known):
        faults += _extra_faults(name, held, known, copies)
    if not faults:
        with _Files(held) as files:
            faults = [
                f"{name}: differs from {repeated}, which it should repeat"
                for name, repeated in copies.items()
                if name in held and not _same(files, held[name].shape, name, repeated)
            ]
    return held, faults


def _held(folder: Path) -> tuple[dict[str, Stored], list[str]]:
    """What the headers of the folder's files say, and what is wrong with the files."""
    held: dict[str, Stored] = {}
    faults = []
    try:
        paths = _paths(folder)
    except (OSError, ValueError, KeyError) as error:
        return {}, [f"{INDEX}: cannot be read ({error})"]
    for path in paths:
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 (it is no mapping)
                    view = file.get_slice(name)
                    if name in held:
                        faults.append(f"{name}: is in {held[name].file.name} and in {path.name}")
                    held[name] = Stored(path, tuple(view.get_shape()), view.get_dtype())
        except (OSError, SafetensorError) as error:
            faults.append(f"{path.name}: cannot be read ({error})")
    return held, faults


def _paths(folder: Path) -> list[Path]:
    index = folder / INDEX
    if index.exists():
        return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    return sorted(folder.glob("*.safetensors"))


def _quantisation_faults(folder: Path) -> list[str]:
    """Why the weights are not what their bytes seem to be, by what config.json says of them."""
    config = folder / "config.json"
    try:
        said = json.loads(config.read_text()).get("quantization_config") if config.exists() else None
    except (OSError, ValueError) as error:
        return [f"config.json: cannot be read ({error})"]
    if not said:
        return []
    wanted = {name: fp8.CONFIG[name] for name in ("quant_method", "weight_block_size")}
    if {name: said.get(name) for name in wanted} == wanted:
        return []
    return [f"config.json: quantization_config was {said}; what can be read is {wanted}"]


def _weight_faults(meta: TensorMeta, held: Mapping[str, Stored]) -> Iterator[str]:
    if meta.name not in held:
        yield f"{meta.name}: not in the folder"
        return
    stored = held[meta.name]
    if stored.shape != meta.shape:
        yield f"{meta.name}: has shape {stored.shape}; this model needs {meta.shape}"
    elif stored.dtype == CODES:
        yield from _scale_faults(meta.name, stored.shape, held.get(meta.name + fp8.SCALE))
    elif stored.dtype not in NUMBERS:
        yield f"{meta.name}: is stored as {stored.dtype}; it must be {', '.join((*NUMBERS, CODES))}"


def _scale_faults(name: str, shape: tuple[int, ...], scales: Stored | None) -> Iterator[str]:
    wanted = scale_shape(shape)
    if len(shape) != 2:
        yield f"{name}: is stored as {CODES}, which has scales for matrices only"
    elif scales is None:
        yield f"{name}: is stored as {CODES}, and {name + fp8.SCALE} is not in the folder"
    elif scales.shape != wanted:
        yield f"{name + fp8.SCALE}: has shape {scales.shape}; a weight of {shape} needs {wanted}"
    elif scales.dtype not in NUMBERS:
        yield f"{name + fp8.SCALE}: is stored as {scales.dtype}; it must be {', '.join(NUMBERS)}"


def _extra_faults(
    name: str, held: Mapping[str, Stored], known: set[str], copies: Mapping[str, str]
) -> Iterator[str]:
    """Why a tensor that is no weight of the model should not be there."""
    weight = name.removesuffix(fp8.SCALE)
    if name in copies:
        stored, repeated = held[name], held.get(copies[name])
        if repeated and (stored.shape, stored.dtype) != (repeated.shape, repeated.dtype):
            yield (
                f"{name}: is {stored.dtype} of {stored.shape}; it should repeat {copies[name]},"
                f" {repeated.dtype} of {repeated.shape}"
            )
    elif weight == name or weight not in known:
        yield f"{name}: no weight of this model"
    elif weight not in held:
        yield f"{name}: scales of a weight that is not in the folder"
    elif held[weight].dtype != CODES:
        yield f"{name}: scales of a weight that is stored as {held[weight].dtype}"


def _same(files: _Files, shape: tuple[int, ...], name: str, other: str) -> bool:
    """Whether two matrices of one shape and dtype are the same bytes, compared strip by strip."""
    rows = max(1, STRIP_BYTES // (4 * prod(shape[1:])))
    return all(
        torch.equal(*(files[one][first : first + rows].view(torch.uint8) for one in (name, other)))
        for first in range(0, shape[0], rows)
    )


# Writing


def write(
    folder: Path,
    source: Source,
    config: dict[str, Any],
    copies: Mapping[str, str],
    *,
    beside: Sequence[Path] = (),
    fp8_blocks: bool = False,
    file_bytes: int = FILE_BYTES,
    progress: Progress | None = None,
) -> None:
    """Write config.json and the weights; all ranks call it, rank 0 writes.

    Rank 0 holds the tensors of one file, the other ranks none beyond the group that is being gathered.

    Args:
        config: the fields of config.json; how the weights are quantised is said by this function.
        copies: names under which a tensor is repeated, and that tensor's name.
        beside: files to copy into the folder.
        fp8_blocks: quantise the weights that DeepSeek does; their blocks are those of whole tensors.
        file_bytes: where the files are cut; a tensor that is larger has one for itself.
        progress: told, on rank 0, of the bytes given to files.

    Raises:
        FolderError: on every rank; the folder is there and not empty.
    """
    if fp8_blocks:
        source = QuantisedSource(source)
    written = {meta.name: _written(meta, copies) for meta in source.metadata()}
    files = _files(written, file_bytes)
    with whole_folder(folder, beside) as partial:
        _write_files(partial, source, written, files, progress)
        if dist.get_rank() == 0:
            weight_map = {
                meta.name: file for file, names in files.items() for name in names for meta in written[name]
            }
            index = {"metadata": {"total_size": _bytes(written.values())}, "weight_map": weight_map}
            (partial / INDEX).write_text(json.dumps(index, indent=1))
            quantised = {"quantization_config": fp8.CONFIG} if fp8_blocks else {}
            (partial / "config.json").write_text(json.dumps(config | quantised, indent=1))


def _written(meta: TensorMeta, copies: Mapping[str, str]) -> list[TensorMeta]:
    """What is written of one tensor of the source: itself and its copies."""
    names = [meta.name, *(name for name, repeated in copies.items() if repeated == meta.name)]
    return [TensorMeta(name, meta.dtype, meta.shape) for name in names]


def _bytes(written: Iterable[Sequence[TensorMeta]]) -> int:
    return sum(prod(meta.shape) * meta.dtype.itemsize for metas in written for meta in metas)


def _files(written: Mapping[str, Sequence[TensorMeta]], file_bytes: int) -> dict[str, list[str]]:
    """The names of the model's tensors that go into each file, in order."""
    runs: list[list[str]] = []
    room = 0
    for name, metas in written.items():
        needed = _bytes([metas])
        if not runs or needed > room:
            runs.append([])
            room = file_bytes
        runs[-1].append(name)
        room -= needed
    return {
        f"model-{number:05d}-of-{len(runs):05d}.safetensors": names for number, names in enumerate(runs, 1)
    }


def _write_files(
    folder: Path,
    source: Source,
    written: Mapping[str, Sequence[TensorMeta]],
    files: Mapping[str, Sequence[str]],
    progress: Progress | None,
) -> None:
    complete_with = {names[-1]: file for file, names in files.items()}
    held: dict[str, Tensor] = {}
    done, total = 0, _bytes(written.values())
    for names, tensors in source.iter_groups():
        if dist.get_rank() != 0:
            continue
        for name, tensor in zip(names, tensors, strict=True):
            held |= _made(tensor, written[name])
            done += _bytes([written[name]])
            if name in complete_with:
                save_file(held, folder / complete_with[name], metadata={"format": "pt"})
                held = {}
            if progress is not None:
                progress(done, total)


def _made(tensor: Tensor, metas: Sequence[TensorMeta]) -> dict[str, Tensor]:
    """The tensors to write of one of the source's, on the CPU, in memory of their own."""
    # Copied even on the CPU: the group's buffer must not live on in a tensor that waits for its file.
    return {meta.name: tensor.to("cpu", copy=True) for meta in metas}
