"""A checksum is of the bytes in their order, however they are cut into buckets and brought into it."""

from __future__ import annotations

import pytest
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from r1mega.weights import memory
from r1mega.weights.memory import Checksum, buckets, checksum, in_order

DTYPES = (torch.float32, torch.bfloat16, torch.float64)


def noise(size: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Every pattern of bits: NaNs with their payload, infinities and negative zeros too."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (size * dtype.itemsize,), dtype=torch.uint8, generator=draw).view(dtype)


def bits(tensor: torch.Tensor) -> bytes:
    """An independent walk over the elements, in the tensor's own order."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


@given(
    blocks=st.integers(1, 4),
    columns=st.sampled_from([1, 2, 3, 7, 16, 33, 96]),
    rows=st.sampled_from([1, 2, 5, 8, 16, 31, 32, 64]),
    dtype=st.sampled_from(DTYPES),
    spare=st.integers(0, 3),
    seed=st.integers(0, 2**32),
)
def test_interleaving_moves_every_bit_to_its_place(blocks, columns, rows, dtype, spare, seed):
    held = noise(blocks * rows * (columns + spare), dtype, seed).view(blocks * rows, -1)[:, :columns]
    interleaved = held.unflatten(0, (blocks, rows)).transpose(1, 2)
    done = in_order(interleaved)
    assert done.is_contiguous()
    assert done.shape == interleaved.shape
    assert bits(done) == bits(interleaved)
    assert checksum(interleaved) == xxhash.xxh3_64_intdigest(bits(interleaved))


@given(st.integers(1, 40), st.integers(1, 9), st.sampled_from(DTYPES), st.integers(1, 300))
def test_buckets_are_the_tensor(rows, columns, dtype, size):
    tensor = noise(rows * columns, dtype, rows).view(rows, columns)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "BUCKET_BYTES", size)
        parts = list(buckets(tensor))
        apart = checksum(tensor.t())
    assert bits(torch.cat(parts)) == bits(tensor)
    assert all(part.nbytes <= max(size, tensor[0].nbytes) for part in parts)
    assert apart == xxhash.xxh3_64_intdigest(bits(tensor.t()))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=4), st.data())
def test_any_change_of_any_part_changes_the_checksum(sizes, data):
    parts = [noise(size, torch.float32, i) for i, size in enumerate(sizes)]
    before = checksum(*parts)
    total = Checksum()
    for part in parts:
        total.add(part)
    assert total.value() == before == checksum(torch.cat(parts))
    at = data.draw(st.integers(0, len(parts) - 1))
    where, bit = data.draw(st.integers(0, sizes[at] - 1)), data.draw(st.integers(0, 31))
    parts[at].view(torch.int32)[where] ^= torch.tensor(1 << bit).to(torch.int32)
    assert checksum(*parts) != before
