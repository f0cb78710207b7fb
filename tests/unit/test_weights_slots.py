"""A slot's views are the box, element for element, in the order in which they lie in the worker's memory."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from r1mega.weights.slots import Slot, like


def interleave(plain: torch.Tensor, block: int) -> torch.Tensor:
    """Rows in blocks: the block's rows side by side, column by column."""
    return plain.unflatten(0, (-1, block)).transpose(1, 2).flatten()


@given(st.data())
def test_reading_and_writing_a_box_of_an_interleaved_parameter(data):
    block, blocks, width = data.draw(st.sampled_from([1, 4, 16])), data.draw(st.integers(1, 3)), 5
    rows = block * blocks
    before, after = data.draw(st.sampled_from([0, 64])), 8
    plain = torch.arange(float(rows * width)).view(rows, width)
    memory = torch.zeros(before + 4 * rows * width + after, dtype=torch.uint8)
    place = memory[before : before + 4 * rows * width].view(torch.float32)
    place.copy_(interleave(plain, block))
    row, column = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, width - 1))
    size = data.draw(st.integers(1, rows - row)), data.draw(st.integers(1, width - column))
    slot = Slot("w", (100 + row, 200 + column), size, "float32", before, width, row, column, block)
    box = plain[row : row + size[0], column : column + size[1]]
    assert slot.bytes == 4 * box.numel()
    read(slot, memory, box)
    inner = slot.cut((100 + row + size[0] - 1, 200 + column), (1, size[1]))
    read(inner, memory, box[-1:])
    for stretch, view in slot.views(memory):
        view.copy_(like(view, -box[stretch]))
    wanted = plain.clone()
    wanted[row : row + size[0], column : column + size[1]] *= -1
    assert torch.equal(place, interleave(wanted, block))
    assert not memory[:before].any()
    assert not memory[before + 4 * rows * width :].any()


def read(slot: Slot, memory: torch.Tensor, box: torch.Tensor) -> None:
    """The views hold the box's rows, all of them, one stretch after another, each from front to back."""
    done = 0
    for rows, view in slot.views(memory):
        assert rows.start == done
        done = rows.stop
        assert torch.equal(view, like(view, box[rows]))
        assert list(view.stride()) == sorted(view.stride(), reverse=True)
    assert done == len(box)


def test_a_vector_is_a_box_of_one_dimension():
    memory = torch.arange(10.0).view(torch.uint8)
    [(rows, view)] = Slot("b", (3,), (4,), "float32", 8, 1, 1, 0, 1).views(memory)
    assert (rows, view.flatten().tolist()) == (slice(0, 4), [3.0, 4.0, 5.0, 6.0])
    assert like(view, torch.arange(4.0)).shape == view.shape
