"""`pack` keeps the eight promises of its module's docstring; the numbers below are theirs."""

import itertools

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from r1mega.grpo.packing import pack

layouts = st.tuples(
    st.lists(st.integers(1, 40), max_size=60),
    st.integers(1, 120),
    st.integers(1, 6),
    st.integers(1, 8),
    st.integers(1, 5),
)


@settings(deadline=None)
@given(layouts)
def test_the_promises(layout):
    lengths, limit, ranks, multiple_of, rows_multiple_of = layout
    capacity = limit // multiple_of * multiple_of
    assume(max(lengths, default=0) <= capacity)
    packed = pack(lengths, limit, ranks, multiple_of, rows_multiple_of)
    loads = [[sum(lengths[i] for i in row) for row in rank] for rank in packed]

    everyone = sorted(i for rank in packed for row in rank for i in row)
    assert everyone == list(range(len(lengths)))  # 1
    assert all(-(-load // multiple_of) * multiple_of <= limit for rank in loads for load in rank)  # 2
    assert len(packed) == ranks  # 3
    assert len({len(rank) for rank in packed}) == 1
    assert packed[0]
    totals = [sum(rank) for rank in loads]
    assert max(totals) - min(totals) <= max(lengths, default=0)  # 4
    fewest = pack(lengths, limit, ranks, multiple_of)
    assert len(packed[0]) == -(-len(fewest[0]) // rows_multiple_of) * rows_multiple_of  # 5
    assert any(
        all(sum(lengths[i] for i in a + b) > capacity for a, b in itertools.combinations(rank, 2))
        for rank in fewest
    )
    for rank in packed:  # 6
        if [] in rank:
            assert sum(map(len, rank)) < len(rank)
    assert all(rank == sorted(rank, reverse=True) for rank in loads)  # 7
    assert packed == pack(lengths, limit, ranks, multiple_of, rows_multiple_of)  # 8


def test_hand_worked_rows():
    # Longest first to the lighter rank: 8, 5, 3 and 7, 6, 2. Then 3 fits beside 5, and 2 beside 7.
    assert pack([8, 7, 6, 5, 3, 2], 10, 2) == [[[0], [3, 4]], [[1, 5], [2]]]


def test_best_fit_takes_the_fullest_row_with_room():
    # 4 fits beside the 5 as beside the 6; the fuller row takes it, and 5 is left for the 5.
    assert pack([6, 5, 4, 5], 10, 1) == [[[0, 2], [1, 3]]]


def test_rows_are_split_until_counts_agree():
    # One long sample needs a row of its own; the other rank could hold its four in one.
    packed = pack([9, 9, 9, 3, 3, 3, 3], 12, 2)
    assert [len(rank) for rank in packed] == [2, 2]
    assert all(row for rank in packed for row in rank)


def test_rows_are_split_until_a_pipeline_can_take_them_in_turn():
    # Two rows would do; three stages want three.
    packed = pack([6, 5, 4, 5], 10, 1, rows_multiple_of=3)
    assert sorted(map(len, packed[0])) == [1, 1, 2]


def test_fewer_samples_than_ranks_leave_empty_rows():
    assert pack([5], 8, 3) == [[[0]], [[]], [[]]]


def test_no_samples_at_all():
    assert pack([], 8, 2) == [[[]], [[]]]


def test_a_rows_padding_counts():
    # 5 + 5 = 10 tokens would be padded to 12.
    assert pack([5, 5], 11, 1, multiple_of=4) == [[[0], [1]]]


def test_a_sample_longer_than_a_row_is_refused_by_name():
    with pytest.raises(ValueError, match=r"sample 1 has 9 tokens; .*tokens_per_microbatch=8"):
        pack([3, 9], 8, 1)
    with pytest.raises(ValueError, match="sample 0 has 0 tokens"):
        pack([0], 8, 1)


@pytest.mark.parametrize("arguments", [(0, 1, 1), (8, 0, 1), (8, 1, 0), (8, 1, 1, 0)])
def test_sizes_below_one_are_refused(arguments):
    with pytest.raises(ValueError, match="at least 1"):
        pack([1], *arguments)


def test_a_rollout_of_the_papers_size_is_balanced():
    lengths = [50 + (i * 7919) % 1950 for i in range(512)]
    packed = pack(lengths, 32_768, 8)
    totals = [sum(lengths[i] for row in rank for i in row) for rank in packed]
    assert max(totals) / (sum(totals) / len(totals)) < 1.01
    assert len(packed[0]) <= sum(lengths) // (8 * 32_768) + 1
