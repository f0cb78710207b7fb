"""Mini-batches: equal, complete, random, and the same whenever they are drawn again."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1mega.grpo.minibatch import split


@settings(deadline=None)
@given(st.integers(1, 16), st.integers(1, 16), st.integers(0, 2**63), st.integers(0, 1000))
def test_every_sample_once_in_equal_parts(updates, size, seed, rollout):
    parts = split(updates * size, updates, seed=seed, rollout=rollout)
    assert [len(part) for part in parts] == [size] * updates
    assert sorted(i for part in parts for i in part) == list(range(updates * size))
    assert parts == split(updates * size, updates, seed=seed, rollout=rollout)


def test_the_draw_is_fixed_for_good():
    """A resumed run may sit on another machine or Python: these numbers must never change."""
    assert split(8, 2, seed=0, rollout=3) == [[6, 1, 2, 4], [7, 5, 0, 3]]


def test_seed_and_rollout_both_matter():
    cuts = [split(64, 4, seed=s, rollout=r) for s in range(5) for r in range(5)]
    assert len({str(cut) for cut in cuts}) == 25


def test_samples_of_a_group_are_spread():
    first = split(8192, 16, seed=0, rollout=0)[0]
    assert len(first) == 512
    assert 300 < len({i // 16 for i in first}) < 400  # 512 * (1 - (1 - 1/16)**16) = 330 groups


@pytest.mark.parametrize(("samples", "updates"), [(10, 3), (4, 0), (0, 4), (2, 4)])
def test_what_does_not_divide_is_refused(samples, updates):
    with pytest.raises(ValueError, match="equal mini-batches"):
        split(samples, updates, seed=0, rollout=0)
