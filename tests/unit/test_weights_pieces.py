"""Places tile every tensor without gap or overlap, and who breaks that is named."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from r1mega.weights.pieces import Place, Shard, cover, local_pieces
from r1mega.weights.table import Row, Served


def place(name="w", shape=(4, 6)):
    """The place that is the whole tensor."""
    return Place(name, shape, (0,) * len(shape), shape, "float32", Served.engine)


def cut(whole, dim, parts):
    """The place in so many parts along a dimension."""
    step = whole.size[dim] // parts
    for number in range(parts):
        start, size = list(whole.start), list(whole.size)
        start[dim] += number * step
        size[dim] = step
        yield replace(whole, start=tuple(start), size=tuple(size))


@st.composite
def tilings(draw):
    """A tensor cut again and again, and its places dealt to ranks, some to several."""
    shape = tuple(draw(st.lists(st.integers(1, 3).map(lambda n: 2**n), min_size=1, max_size=3)))
    tiles = [place(shape=shape)]
    for _ in range(draw(st.integers(0, 3))):
        number = draw(st.integers(0, len(tiles) - 1))
        dim = draw(st.integers(0, len(shape) - 1))
        if tiles[number].size[dim] > 1:
            tiles[number : number + 1] = cut(tiles[number], dim, 2)
    ranks = [[] for _ in range(draw(st.integers(1, 4)))]
    for tile in tiles:
        for rank in draw(st.sets(st.integers(0, len(ranks) - 1), min_size=1)):
            ranks[rank].append(tile)
    return tiles, ranks


@given(tilings())
def test_a_tiling_is_taken_with_all_who_hold_each_place(tiling):
    tiles, ranks = tiling
    holders = cover(ranks)
    assert holders.keys() == set(tiles)
    for tile, held_by in holders.items():
        assert held_by == [rank for rank, places in enumerate(ranks) if tile in places]


@given(tilings(), st.data())
def test_a_gap_is_named(tiling, data):
    tiles, ranks = tiling
    gone = data.draw(st.sampled_from(tiles))
    rest = [[tile for tile in places if tile != gone] for places in ranks]
    # Of a tensor that nobody holds nobody can know.
    if len(tiles) > 1:
        with pytest.raises(ValueError, match=r"w: \d+ of \d+ elements"):
            cover(rest)


@given(tilings(), st.data())
def test_a_place_that_slipped_is_named_though_the_sizes_add_up(tiling, data):
    tiles, ranks = tiling
    dim = data.draw(st.integers(0, len(tiles[0].shape) - 1))
    moved = data.draw(st.sampled_from(tiles))
    if moved.start[dim] == 0:
        return
    start = list(moved.start)
    start[dim] -= 1
    overlapping = replace(moved, start=tuple(start))
    # Where it slipped right onto another, one place has two holders and its own has none.
    with pytest.raises(ValueError, match=r"w: (shards overlap|\d+ of \d+ elements)"):
        cover([[overlapping if tile == moved else tile for tile in places] for places in ranks])


def test_ranks_that_disagree_on_shape_or_dtype_are_named():
    halves = list(cut(place(), 0, 2))
    with pytest.raises(ValueError, match="w: ranks disagree on its shape or dtype"):
        cover([[halves[0]], [replace(halves[1], dtype="bfloat16")]])
    with pytest.raises(ValueError, match="w: ranks disagree on its shape or dtype"):
        cover([[halves[0]], [replace(halves[1], shape=(8, 6))]])


def test_all_faults_come_at_once():
    halves = [list(cut(place(name), 0, 2)) for name in "abc"]
    with pytest.raises(ValueError, match=r"(?s)a: 12 of 24 elements.*c: 12 of 24 elements") as raised:
        cover([[halves[0][0], *halves[1]], [halves[2][1]]])
    assert "b:" not in str(raised.value)


@given(tilings())
def test_places_are_views_that_make_up_the_whole(tiling):
    tiles, _ = tiling
    whole = torch.zeros(tiles[0].shape)
    for tile in tiles:
        tile.of(whole).add_(1)
        assert tile.bytes == 4 * tile.of(whole).numel()
    assert torch.equal(whole, torch.ones(tiles[0].shape))
    assert str(place()) == "w[0:4, 0:6]"


class Split(torch.nn.Module):
    """One weight, split along `dim` over tensor-parallel ranks as Megatron marks it."""

    def __init__(self, weight, dim):
        super().__init__()
        self.weight = torch.nn.Parameter(weight)
        if dim is not None:
            self.weight.tensor_model_parallel = True
            self.weight.partition_dim = dim


@pytest.mark.parametrize("dim", [None, 0, 1])
def test_a_fused_weight_is_cut_into_its_parts_before_its_shards_are_placed(dim):
    """Each rank holds its share of gate above its share of up, not a share of the two stacked."""
    gate, up = torch.arange(24.0).view(4, 6), torch.arange(24.0, 48.0).view(4, 6)
    table = [Row("weight", ("gate", "up"), ((4, 6), (4, 6)), split=dim)]
    places, ranks = [], 2 if dim is not None else 1
    whole = {"gate": torch.zeros(4, 6), "up": torch.zeros(4, 6)}
    for rank in range(ranks):
        parts = [part if dim is None else part.chunk(2, dim)[rank] for part in (gate, up)]
        shard = Shard(tp_rank=rank, tp=ranks, etp_rank=0, etp=1, ep_rank=0, ep=1)
        pieces = local_pieces([Split(torch.cat(parts), dim)], table, shard)
        assert [piece.place.name for piece in pieces] == ["gate", "up"]
        for piece in pieces:
            piece.place.of(whole[piece.place.name]).copy_(piece.tensor)
        places.append([piece.place for piece in pieces])
    cover(places)
    assert torch.equal(whole["gate"], gate)
    assert torch.equal(whole["up"], up)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_queries_keys_and_values_take_turns_group_by_group(ranks):
    """Megatron's order: the queries of a group, its key, its value; and so on. HF's: all queries, ..."""
    heads, groups, size = 8, 4, 2
    shapes = ((heads * size, 3), (groups * size, 3), (groups * size, 3))
    hf = [torch.arange(float(a * b)).view(a, b) + 100 * i for i, (a, b) in enumerate(shapes)]
    by_group = [part.unflatten(0, (groups, -1)) for part in hf]
    megatron = torch.cat(by_group, dim=1).flatten(0, 1)
    table = [Row("weight", ("q", "k", "v"), shapes, split=0, runs=groups)]
    whole = {name: torch.zeros(shape) for name, shape in zip("qkv", shapes, strict=True)}
    places = []
    for rank in range(ranks):
        shard = Shard(tp_rank=rank, tp=ranks, etp_rank=0, etp=1, ep_rank=0, ep=1)
        pieces = local_pieces([Split(megatron.chunk(ranks)[rank].clone(), 0)], table, shard)
        for piece in pieces:
            piece.place.of(whole[piece.place.name]).copy_(piece.tensor)
        places.append([piece.place for piece in pieces])
    cover(places)
    for name, tensor in zip("qkv", hf, strict=True):
        assert torch.equal(whole[name], tensor)


@pytest.mark.parametrize("shape", [(4, 5), (3, 6)])
def test_a_parameter_of_another_size_than_the_table_says_is_named(shape):
    shard = Shard(tp_rank=0, tp=1, etp_rank=0, etp=1, ep_rank=0, ep=1)
    with pytest.raises(KeyError, match=r"by the weight table it should be \(4, 6\)"):
        local_pieces([Split(torch.zeros(shape), None)], [Row("weight", ("w",), ((4, 6),))], shard)


def test_a_parameter_that_megatron_splits_otherwise_is_named():
    shard = Shard(tp_rank=0, tp=2, etp_rank=0, etp=1, ep_rank=0, ep=1)
    with pytest.raises(KeyError, match="split along 1 here; by the weight table along 0"):
        local_pieces([Split(torch.zeros(2, 6), 1)], [Row("weight", ("w",), ((4, 6),), split=0)], shard)


def test_a_piece_is_a_view_of_the_parameter():
    module = Split(torch.zeros(4, 6), None)
    shard = Shard(tp_rank=0, tp=1, etp_rank=0, etp=1, ep_rank=0, ep=1)
    [piece] = local_pieces([module], [Row("weight", ("w",), ((4, 6),))], shard)
    piece.tensor.fill_(3)
    assert torch.equal(module.weight.data, torch.full((4, 6), 3.0))


def test_a_weight_that_the_table_does_not_know_is_named():
    shard = Shard(tp_rank=0, tp=1, etp_rank=0, etp=1, ep_rank=0, ep=1)
    with pytest.raises(KeyError, match="0 rows for 'weight'"):
        local_pieces([Split(torch.zeros(2), None)], [Row("bias", ("b",), ((2,),))], shard)
