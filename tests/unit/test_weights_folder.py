"""HF folders by themselves, on one rank: FP8, copies, dtypes and files, without a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from support.models import read_folder

from r1mega.weights import fp8
from r1mega.weights.folder import read, write
from r1mega.weights.pieces import Piece, Place
from r1mega.weights.quantised import QuantisedSource
from r1mega.weights.source import TensorMeta
from r1mega.weights.table import Served
from r1mega.weights.whole import FolderError

PROJECTION = "model.layers.0.self_attn.q_proj.weight"
WEIGHTS = {
    "model.embed_tokens.weight": torch.randn(40, 16),
    PROJECTION: torch.randn(200, 140),
    "model.layers.0.input_layernorm.weight": torch.randn(140),
    "lm_head.weight": torch.randn(40, 16),
}
COPIES = {
    "model.layers.1.embed_tokens.weight": "model.embed_tokens.weight",
    "model.layers.1.shared_head.head.weight": "lm_head.weight",
}
METAS = [TensorMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in WEIGHTS.items()]


class Source:
    """The weights as a stream, in groups of two."""

    def metadata(self) -> list[TensorMeta]:
        return METAS

    def iter_groups(self) -> Iterator[tuple[list[str], list[torch.Tensor]]]:
        names = list(WEIGHTS)
        for at in range(0, len(names), 2):
            yield names[at : at + 2], [WEIGHTS[name] for name in names[at : at + 2]]


@pytest.fixture(scope="module", autouse=True)
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_quantised_source_streams_what_it_declares() -> None:
    quantised = QuantisedSource(Source())
    streamed = dict(quantised)
    declared = {meta.name: (meta.dtype, meta.shape) for meta in quantised.metadata()}
    assert list(streamed) == list(declared)
    assert {name: (x.dtype, tuple(x.shape)) for name, x in streamed.items()} == declared
    assert streamed.keys() - WEIGHTS.keys() == {PROJECTION + fp8.SCALE}
    error = fp8.dequantise(streamed[PROJECTION], streamed[PROJECTION + fp8.SCALE]) - WEIGHTS[PROJECTION]
    assert 0 < error.abs().max() <= WEIGHTS[PROJECTION].abs().max() / 16
    assert all(streamed[name] is tensor for name, tensor in WEIGHTS.items() if name != PROJECTION)


def written(folder: Path, **options: Any) -> Path:
    write(folder, Source(), {"model_type": "x"}, COPIES, **options)  # type: ignore[arg-type]
    return folder


def piece(name: str, start: tuple[int, ...], size: tuple[int, ...], dtype: str = "float32") -> Piece:
    place = Place(name, tuple(WEIGHTS[name].shape), start, size, dtype, Served.engine)
    return Piece(place, torch.zeros(size, dtype=getattr(torch, dtype)))


def refused(folder: Path) -> str:
    with pytest.raises(FolderError) as error:
        read(folder, [], METAS, COPIES)
    return str(error.value)


def changed(folder: Path, changes: dict[str, torch.Tensor | None], **options: Any) -> Path:
    """A sound folder with tensors replaced, added, or (None) taken away."""
    tensors = read_folder(written(folder / "sound", **options)) | changes
    save_file(
        {name: x.contiguous() for name, x in tensors.items() if x is not None}, folder / "a.safetensors"
    )
    return folder


def test_copies_are_written_and_accepted(tmp_path: Path) -> None:
    back = read_folder(written(tmp_path / "hf"))
    for copy, repeated in COPIES.items():
        assert torch.equal(back.pop(copy), WEIGHTS[repeated])
    assert back.keys() == WEIGHTS.keys()
    part = piece(PROJECTION, (100, 3), (50, 70))
    read(tmp_path / "hf", [part], METAS, COPIES)
    assert torch.equal(part.tensor, WEIGHTS[PROJECTION][100:150, 3:73])


def test_copies_may_be_left_out(tmp_path: Path) -> None:
    read(changed(tmp_path, dict.fromkeys(COPIES)), [], METAS, COPIES)


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_of_another_content_or_shape_is_refused(tmp_path: Path, copy: str) -> None:
    other = WEIGHTS[COPIES[copy]].clone()
    other[-1, -1] = -other[-1, -1]
    assert f"{copy}: differs from {COPIES[copy]}" in refused(changed(tmp_path / "1", {copy: other}))
    assert f"{copy}: is F32 of (39, 16)" in refused(changed(tmp_path / "2", {copy: other[:-1]}))
    assert f"{copy}: is BF16" in refused(changed(tmp_path / "3", {copy: other.bfloat16()}))


@pytest.mark.parametrize("start", [(0, 0), (100, 3), (127, 127), (128, 128), (199, 139)])
def test_a_rank_reads_the_numbers_of_its_box_of_fp8(tmp_path: Path, start: tuple[int, int]) -> None:
    folder = written(tmp_path / "hf", fp8_blocks=True)
    size = (min(90, 200 - start[0]), min(90, 140 - start[1]))
    parts = [piece(PROJECTION, start, size), piece(PROJECTION, start, size, "bfloat16")]
    read(folder, parts, METAS, COPIES)
    whole = fp8.dequantise(*fp8.quantise(WEIGHTS[PROJECTION]))
    assert torch.equal(parts[0].tensor, parts[0].place.of(whole))
    assert torch.equal(parts[1].tensor, parts[0].place.of(whole).bfloat16())


def test_fp8_at_fault_is_named(tmp_path: Path) -> None:
    scales = PROJECTION + fp8.SCALE
    faults: dict[str, dict[str, torch.Tensor | None]] = {
        f"{scales} is not in the folder": {scales: None},
        f"{scales}: has shape (2, 1)": {scales: torch.ones(2, 1)},
        f"{scales}: is stored as I64": {scales: torch.ones(2, 2, dtype=torch.int64)},
        f"{scales}: scales of a weight that is not in the folder": {PROJECTION: None},
        f"{scales}: scales of a weight that is stored as F32": {PROJECTION: WEIGHTS[PROJECTION]},
        "model.layers.9.mlp.up_proj.weight_scale_inv: no weight": {
            "model.layers.9.mlp.up_proj.weight_scale_inv": torch.ones(1, 1)
        },
        f"{PROJECTION}: is stored as F8_E5M2": {PROJECTION: WEIGHTS[PROJECTION].to(torch.float8_e5m2)},
        f"{PROJECTION}: is stored as I8": {PROJECTION: WEIGHTS[PROJECTION].to(torch.int8), scales: None},
    }
    for number, (said, changes) in enumerate(faults.items()):
        assert said in refused(changed(tmp_path / str(number), changes, fp8_blocks=True))


def test_another_quantisation_is_not_read_as_numbers(tmp_path: Path) -> None:
    folder = written(tmp_path / "hf")
    said = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 64]}}
    (folder / "config.json").write_text(json.dumps(said))
    assert "quantization_config was" in refused(folder)


def test_files_are_cut_and_named_as_hf_does(tmp_path: Path) -> None:
    folder = written(tmp_path / "hf", file_bytes=6_000)
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert files == [f"model-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)]
    assert read_folder(folder).keys() == WEIGHTS.keys() | COPIES.keys()


def test_progress_ends_at_the_bytes_of_all(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    written(tmp_path / "hf", progress=lambda done, total: seen.append((done, total)))
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    assert seen[-1] == (index["metadata"]["total_size"],) * 2
    seen.clear()
    parts = [piece(PROJECTION, (0, 0), (200, 140)), piece("lm_head.weight", (0, 0), (40, 16), "bfloat16")]
    read(tmp_path / "hf", parts, METAS, COPIES, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (sum(part.tensor.nbytes for part in parts),) * 2


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail(done: int, total: int) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        written(tmp_path / "hf", progress=fail)
    assert not (tmp_path / "hf").exists()
    written(tmp_path / "hf")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
    with pytest.raises(FolderError, match="exists and is not empty"):
        written(tmp_path / "hf")
