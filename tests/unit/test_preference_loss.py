"""The losses of reward models against formulas of their own, autograd, and each other."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid
from torch.testing import assert_close

from r1mega.preference.loss import linear, pairwise, pointwise

SCORES = st.lists(st.tuples(*[st.floats(-300, 300, width=32)] * 2, st.booleans()), min_size=1, max_size=20)


def columns(rows: list[tuple[float, float, bool]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    first, second, safe = zip(*rows, strict=True)
    return torch.tensor(first), torch.tensor(second), torch.tensor(safe)


def exact_softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@given(SCORES)
def test_pairwise_is_minus_log_sigmoid_of_the_margin(rows: list[tuple[float, float, bool]]) -> None:
    chosen, rejected, _ = columns(rows)
    judged = pairwise(chosen, rejected)
    margins = [float(c) - float(r) for c, r in zip(chosen, rejected, strict=True)]
    exact = torch.tensor([exact_softplus(-margin) for margin in margins])
    assert_close(judged.losses_R, exact, rtol=1e-5, atol=1e-6)
    assert_close(judged.losses_R, -logsigmoid(chosen - rejected), rtol=1e-5, atol=1e-6)
    assert_close(judged.margins_R, chosen - rejected)


@given(SCORES)
def test_pairwise_coefficients_are_what_autograd_finds(rows: list[tuple[float, float, bool]]) -> None:
    chosen, rejected, _ = columns(rows)
    chosen.requires_grad_()
    rejected.requires_grad_()
    (-logsigmoid(chosen - rejected)).sum().backward()
    coefficients = pairwise(chosen.detach(), rejected.detach()).coefficients_RK
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert_close(coefficients, torch.stack([chosen.grad, rejected.grad], dim=1), rtol=1e-5, atol=1e-7)
    assert (coefficients.sum(1) == 0).all()  # only the difference counts


@given(SCORES)
def test_pointwise_is_binary_cross_entropy(rows: list[tuple[float, float, bool]]) -> None:
    scores, _, safe = columns(rows)
    scores.requires_grad_()
    losses = binary_cross_entropy_with_logits(scores, safe.float(), reduction="none")
    losses.sum().backward()
    judged = pointwise(scores.detach(), safe)
    assert scores.grad is not None
    assert_close(judged.losses_R, losses.detach(), rtol=1e-5, atol=1e-6)
    assert_close(judged.coefficients_RK[:, 0], scores.grad, rtol=1e-5, atol=1e-6)
    assert torch.equal(judged.margins_R > 0, (scores.detach() > 0) == safe) or (scores == 0).any()


def test_by_hand() -> None:
    losses, coefficients, margins = pairwise(torch.tensor([2.0, 0.0]), torch.tensor([2.0 - math.log(3), 0.0]))
    assert_close(losses, torch.tensor([math.log(4 / 3), math.log(2)]))
    assert_close(coefficients, torch.tensor([[-0.25, 0.25], [-0.5, 0.5]]))
    assert_close(margins, torch.tensor([math.log(3), 0.0]))
    losses, coefficients, margins = pointwise(torch.tensor([math.log(3)] * 2), torch.tensor([True, False]))
    assert_close(losses, torch.tensor([math.log(4 / 3), math.log(4)]))
    assert_close(coefficients, torch.tensor([[-0.25], [0.75]]))
    assert_close(margins, torch.tensor([math.log(3), -math.log(3)]))


@pytest.mark.parametrize("size", [1e4, 1e20, 3e38])
def test_scores_of_any_size_give_finite_losses(size: float) -> None:
    right = pairwise(torch.tensor([size / 2]), torch.tensor([-size / 2]))
    wrong = pairwise(torch.tensor([-size / 2]), torch.tensor([size / 2]))
    assert right.losses_R == 0
    assert right.coefficients_RK.tolist() == [[0.0, 0.0]]
    assert wrong.losses_R == torch.tensor(size)
    assert wrong.coefficients_RK.tolist() == [[-1.0, 1.0]]
    safe, unsafe = (pointwise(torch.tensor([size]), torch.tensor([is_safe])) for is_safe in (True, False))
    assert (safe.losses_R.item(), safe.coefficients_RK.item()) == (0.0, 0.0)
    assert (unsafe.losses_R, unsafe.coefficients_RK.item()) == (torch.tensor(size), 1.0)


def test_nan_stays_nan() -> None:
    nan = torch.tensor([math.nan])
    for judged in (pairwise(nan, torch.zeros(1)), pointwise(nan, torch.tensor([True]))):
        assert all(part.isnan().all() for part in judged)


@pytest.mark.parametrize("kind", ["pairwise", "pointwise"])
def test_two_passes_have_the_gradient_of_one(kind: str) -> None:
    """The weights' gradient of the mean loss, once through autograd and once through the coefficients."""
    generator = torch.Generator().manual_seed(0)
    texts = torch.randn(12, 7, generator=generator, dtype=torch.float64)
    safe = torch.rand(12, generator=generator) < 0.5
    weights = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((7, 5), (5,))]

    def scores() -> torch.Tensor:
        return (texts @ weights[0]).tanh() @ weights[1]

    def losses(r: torch.Tensor) -> torch.Tensor:
        if kind == "pairwise":
            return -logsigmoid(r[0::2] - r[1::2])
        return binary_cross_entropy_with_logits(r, safe.double(), reduction="none")

    for weight in weights:
        weight.requires_grad_()
    at_once = torch.autograd.grad(losses(scores()).mean(), weights)
    with torch.no_grad():
        r = scores()
        judged = pairwise(r[0::2], r[1::2]) if kind == "pairwise" else pointwise(r, safe)
    coefficients = judged.coefficients_RK.flatten() / len(judged.losses_R)
    loss, figures = linear(scores(), {"coefficients": coefficients})
    in_two = torch.autograd.grad(loss, weights)
    assert figures == {"linear": loss}
    assert_close(in_two, at_once)


def test_only_places_with_a_coefficient_count() -> None:
    r = torch.tensor([1.0, math.inf, math.nan, 3.0], requires_grad=True)
    loss, _ = linear(r, {"coefficients": torch.tensor([0.5, 0.0, 0.0, -1.0])})
    loss.backward()
    assert loss.item() == -2.5
    assert r.grad is not None
    assert r.grad.tolist() == [0.5, 0.0, 0.0, -1.0]
