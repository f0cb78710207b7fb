"""The trainer-sampler mismatch on hand-worked tokens."""

import math

import pytest
import torch
from jaxtyping import TypeCheckError

from r1mega.grpo.mismatch import mismatch


def test_hand_worked_tokens():
    figures = mismatch(torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-1.5, -2.0, -2.0]))
    assert figures == {"mean_abs_dlogp": 0.5, "max_abs_dlogp": 1.0, "k1": pytest.approx(0.5 / 3)}


def test_equal_sides_differ_by_exactly_nothing():
    x = torch.randn(5)
    assert mismatch(x, x) == {"mean_abs_dlogp": 0.0, "max_abs_dlogp": 0.0, "k1": 0.0}


def test_k1_estimates_the_kl_from_samples():
    sampler, trainer = torch.tensor([0.7, 0.3]), torch.tensor([0.6, 0.4])
    tokens = torch.multinomial(sampler, 200_000, replacement=True, generator=torch.Generator().manual_seed(0))
    exact = (sampler * (sampler / trainer).log()).sum().item()
    figures = mismatch(trainer.log()[tokens], sampler.log()[tokens])
    assert figures["k1"] == pytest.approx(exact, abs=2e-3)


def test_nan_is_shown():
    figures = mismatch(torch.tensor([math.nan, -1.0]), torch.tensor([-1.0, -1.0]))
    assert all(math.isnan(value) for value in figures.values())


def test_no_token_is_refused():
    with pytest.raises(ValueError, match="no sampled token"):
        mismatch(torch.zeros(0), torch.zeros(0))


def test_shapes_are_checked():
    with pytest.raises(TypeCheckError):
        mismatch(torch.zeros(3), torch.zeros(2))
