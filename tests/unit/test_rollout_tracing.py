"""Whatever a loader does that boxes describe is found out; what they do not is refused."""

from __future__ import annotations

import pytest
import torch

from r1mega.rollout.tracing import LayoutError, trace
from r1mega.weights.source import TensorMeta

METAS = [
    TensorMeta("q", torch.float32, (8, 6)),
    TensorMeta("k", torch.float32, (4, 6)),
    TensorMeta("down", torch.float32, (16, 12)),
    TensorMeta("bias", torch.float32, (8,)),
]


class Model(torch.nn.Module):
    """A worker of two: queries and keys fused, `down` by columns, its rows interleaved and padded."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.qk = torch.nn.Parameter(torch.randn(8, 6))
        self.down = torch.nn.Parameter(torch.randn(16, 8))
        self.bias = torch.nn.Parameter(torch.randn(5))

    def load(self, weights) -> None:
        tensors = dict(weights)
        half = slice(4 * self.rank, 4 * self.rank + 4)
        self.qk.data[:4], self.qk.data[4:] = tensors["q"][half], tensors["k"]
        plain = torch.zeros(16, 8)
        plain[:, :6] = tensors["down"][:, 6 * self.rank : 6 * self.rank + 6]
        self.down.data = plain.unflatten(0, (2, 8)).transpose(1, 2).reshape(16, 8).clone()
        self.bias.data[:4] = tensors["bias"][half]


@pytest.mark.parametrize("rank", [0, 1])
def test_fused_split_interleaved_and_padded(rank):
    model = Model(rank)
    found = {(s.parameter, s.row): s for s in trace(model, model.load, METAS)}
    assert set(found) == {("qk", 0), ("qk", 4), ("down", 0), ("bias", 0)}
    q, k, down, bias = (found[key] for key in [("qk", 0), ("qk", 4), ("down", 0), ("bias", 0)])
    assert (q.name, q.start, q.size, q.block) == ("q", (4 * rank, 0), (4, 6), 1)
    assert (k.name, k.start, k.size) == ("k", (0, 0), (4, 6))
    assert (down.name, down.start, down.size, down.block) == ("down", (0, 6 * rank), (16, 6), 8)
    assert (bias.name, bias.start, bias.size) == ("bias", (4 * rank,), (4,))


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain.flip(1),
        lambda plain: plain[:, [0, 2, 1, *range(3, 12)]],
        lambda plain: plain * 2,
        lambda plain: torch.cat([plain[:, 6:], plain[:, :6]], 1),
    ],
)
def test_what_boxes_do_not_describe_is_refused(change):
    model = torch.nn.Linear(12, 16, bias=False)

    def load(weights) -> None:
        model.weight.data = change(dict(weights)["down"]).clone()

    with pytest.raises(LayoutError, match="weight: its rows are no boxes"):
        trace(model, load, METAS)


def test_a_swap_of_rows_is_two_boxes():
    model = torch.nn.Linear(12, 16, bias=False)

    def load(weights) -> None:
        down = dict(weights)["down"]
        model.weight.data = torch.cat([down[8:], down[:8]])

    assert [(s.row, s.start) for s in trace(model, load, METAS)] == [(0, (8, 0)), (8, (0, 0))]
