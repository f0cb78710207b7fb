"""Advantages against hand-worked groups, an independent formula and what they promise."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from r1mega.grpo.advantage import group_advantages

finite = st.floats(-100, 100, width=32)
groups = st.integers(2, 8).flatmap(
    lambda g: st.lists(st.lists(finite, min_size=g, max_size=g), min_size=1, max_size=4)
)


def test_hand_worked_groups():
    advantages, no_variance = group_advantages(
        torch.tensor([[2.0, 0.0, 0.0, 0.0], [1.0, 3.0, 1.0, 3.0], [1.0, 1.0, 1.0, 1.0]])
    )
    # mean 1/2, population variance 3/4: sqrt(3) above and 1/sqrt(3) below
    third = 1 / math.sqrt(3)
    expected = [[math.sqrt(3), -third, -third, -third], [-1, 1, -1, 1], [0, 0, 0, 0]]
    torch.testing.assert_close(advantages, torch.tensor(expected))
    assert no_variance.tolist() == [False, False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_not_variance(dtype):
    rewards = torch.tensor([[0.1, 0.1, 0.1], [0.1 + 0.2, 0.3, 0.3]], dtype=dtype)
    advantages, no_variance = group_advantages(rewards)
    assert no_variance.all()
    assert (advantages == 0).all()


def test_a_small_true_difference_is_variance():
    advantages, no_variance = group_advantages(torch.tensor([[1e-30, 3e-30], [1.0, 1.00001]]))
    assert not no_variance.any()
    torch.testing.assert_close(advantages, torch.tensor([[-1.0, 1.0], [-1.0, 1.0]]))


def test_one_answer_a_prompt_has_nothing_to_be_compared_with():
    advantages, no_variance = group_advantages(torch.tensor([[3.0]]))
    assert advantages.item() == 0
    assert no_variance.item()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        group_advantages(torch.tensor([[1.0, bad]]))


@settings(max_examples=40, deadline=None)
@given(groups)
def test_against_the_statistics_module(rewards):
    advantages, no_variance = group_advantages(torch.tensor(rewards, dtype=torch.float64))
    for group, row, flat in zip(rewards, advantages.tolist(), no_variance.tolist(), strict=True):
        if flat:
            assert row == [0.0] * len(group)
            assert max(group) - min(group) <= 1e-12 * max(map(abs, group))
            continue
        mean, std = statistics.fmean(group), statistics.pstdev(group)
        assert row == pytest.approx([(r - mean) / std for r in group], rel=1e-6, abs=1e-6)
        assert statistics.fmean(row) == pytest.approx(0, abs=1e-6)
        assert statistics.pstdev(row) == pytest.approx(1, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(groups, st.floats(0.5, 4), st.floats(-10, 10))
def test_scale_and_shift_of_rewards_do_not_matter(rewards, scale, shift):
    plain = torch.tensor(rewards, dtype=torch.float64)
    spread = plain.amax(dim=1) - plain.amin(dim=1)
    plain = plain[spread > 1e-3]
    torch.testing.assert_close(
        group_advantages(plain * scale + shift)[0], group_advantages(plain)[0], rtol=1e-6, atol=1e-6
    )


def test_shapes_are_checked():
    with pytest.raises(TypeCheckError):
        group_advantages(torch.zeros(4))
