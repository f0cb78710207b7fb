"""The loss against a double loop in Python, its gradient, its masks and its sums over ranks."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from r1mega.grpo.loss import grpo_loss, sample_weights
from r1mega.grpo.packing import pack

EPS, BETA = 0.2, 0.05


def naive(logps, old, ref, advantages, eps=EPS, beta=BETA):
    """Mean over samples of the mean over tokens, written as the paper prints it."""
    total, kl_total, clipped_total = 0.0, 0.0, 0.0
    for sample, old_sample, ref_sample, advantage in zip(logps, old, ref, advantages, strict=True):
        for p, q, r in zip(sample, old_sample, ref_sample, strict=True):
            rho = math.exp(p - q)
            bounded = max(min(rho, 1 + eps), 1 - eps)
            kl = math.exp(r - p) - (r - p) - 1
            share = 1 / len(sample) / len(logps)
            total += share * (-min(rho * advantage, bounded * advantage) + beta * kl)
            kl_total += share * kl
            clipped_total += share * (bounded * advantage < rho * advantage)
    return total, kl_total, clipped_total


def batch(samples=6, seed=0, spread=0.3):
    """Ragged samples: log-probs, old and reference ones near them, one advantage each."""
    rng = random.Random(seed)
    lengths = [rng.randint(1, 7) for _ in range(samples)]
    logps = [[-rng.uniform(0.1, 3) for _ in range(n)] for n in lengths]
    old = [[p + rng.gauss(0, spread) for p in row] for row in logps]
    ref = [[p + rng.gauss(0, spread) for p in row] for row in logps]
    return lengths, logps, old, ref, [rng.gauss(0, 1) for _ in lengths]


def flat(rows):
    return torch.tensor([x for row in rows for x in row], dtype=torch.float64)


def tensors(lengths, logps, old, ref, advantages):
    repeats = torch.tensor(lengths)
    return (
        flat(logps).requires_grad_(),
        flat(old),
        flat(ref),
        torch.tensor(advantages, dtype=torch.float64).repeat_interleave(repeats),
        sample_weights(lengths).double().repeat_interleave(repeats),
    )


def loss_of(*args, eps=EPS, beta=BETA):
    return grpo_loss(*args, clip_eps=eps, kl_coefficient=beta)


def test_hand_worked_tokens():
    # Two samples, of one token and of two; ratios 1.5, 0.5 and 1; advantages 1 and -1.
    half, third = math.log(0.5), math.log(1.5)
    loss, figures = loss_of(
        torch.tensor([third, half, 0.0]),
        torch.zeros(3),
        torch.tensor([third, half, math.log(2)]),
        torch.tensor([1.0, -1.0, -1.0]),
        torch.tensor([1 / 2, 1 / 4, 1 / 4]),
    )
    # 1.5 is clipped to 1.2; 0.5 with a bad advantage to 0.8; the last token is free.
    assert figures["pg_loss"].item() == pytest.approx(-1.2 / 2 + 0.8 / 4 + 1 / 4)
    # Only the last token differs from the reference: e^ln2 - ln2 - 1.
    assert figures["kl_loss"].item() == pytest.approx((1 - math.log(2)) / 4)
    assert figures["pg_clipfrac"].item() == pytest.approx(3 / 4)
    assert figures["ppo_kl"].item() == pytest.approx(-third / 2 - half / 4)
    total = figures["pg_loss"] + BETA * figures["kl_loss"]
    assert loss.item() == pytest.approx(total.item())


@pytest.mark.parametrize(("ratio", "advantage"), [(1.5, -1.0), (0.5, 1.0), (1.1, 1.0), (1.5, 0.0)])
def test_the_clip_is_counted_only_where_it_is_in_force(ratio, advantage):
    logp = torch.tensor([math.log(ratio)], requires_grad=True)
    loss, figures = loss_of(logp, torch.zeros(1), logp.detach(), torch.tensor([advantage]), torch.ones(1))
    loss.backward()
    assert figures["pg_clipfrac"].item() == 0
    assert logp.grad.item() == pytest.approx(-ratio * advantage)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9))
def test_against_the_double_loop(seed, samples):
    lengths, logps, old, ref, advantages = batch(samples, seed)
    loss, figures = loss_of(*tensors(lengths, logps, old, ref, advantages))
    expected, kl, clipped = naive(logps, old, ref, advantages)
    assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert figures["kl_loss"].item() == pytest.approx(kl, rel=1e-5, abs=1e-9)
    assert figures["pg_clipfrac"].item() == pytest.approx(clipped, abs=1e-6)
    assert figures["kl_loss"].item() >= 0
    assert not any(value.requires_grad for value in figures.values())


def test_gradient_against_finite_differences_of_the_double_loop():
    lengths, logps, old, ref, advantages = batch(seed=3)
    args = tensors(lengths, logps, old, ref, advantages)
    loss_of(*args)[0].backward()
    step, measured = 1e-6, []
    for row in logps:
        for t, value in enumerate(row):
            row[t] = value + step
            above = naive(logps, old, ref, advantages)[0]
            row[t] = value - step
            below = naive(logps, old, ref, advantages)[0]
            row[t] = value
            measured.append((above - below) / (2 * step))
    torch.testing.assert_close(
        args[0].grad, torch.tensor(measured, dtype=torch.float64), rtol=1e-5, atol=1e-7
    )


def test_gradient_on_policy_is_reinforce():
    """At ratio 1 and without KL a token's gradient is -w * A, whole and not halved by the min."""
    lengths, logps, _, ref, advantages = batch(seed=5)
    args = tensors(lengths, logps, logps, ref, advantages)
    loss_of(*args, beta=0.0)[0].backward()
    torch.testing.assert_close(args[0].grad, -args[3] * args[4])


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e30, -1e30])
def test_tokens_of_weight_zero_may_hold_anything(garbage):
    clean = tensors(*batch(seed=7))
    clean_loss, clean_figures = loss_of(*clean)
    clean_loss.backward()
    dirty = [torch.cat([x.detach(), x.new_full((3,), garbage)]) for x in clean[:4]]
    logps = dirty[0].requires_grad_()
    weights = torch.cat([clean[4], torch.zeros(3, dtype=torch.float64)])
    loss, figures = loss_of(logps, *dirty[1:], weights)
    loss.backward()
    assert loss.item() == pytest.approx(clean_loss.item(), rel=1e-12)
    assert {k: v.item() for k, v in figures.items()} == pytest.approx(
        {k: v.item() for k, v in clean_figures.items()}
    )
    assert (logps.grad[-3:] == 0).all()
    torch.testing.assert_close(logps.grad[:-3], clean[0].grad)


def test_masked_tokens_send_no_nan_through_what_made_their_log_probs():
    logits = torch.tensor([[0.0, 1.0], [-math.inf, 0.0]], requires_grad=True)
    logps = logits.log_softmax(-1)[:, 0]  # the second is -inf
    zeros = torch.zeros(2)
    loss_of(logps, zeros, zeros, torch.ones(2), torch.tensor([1.0, 0.0]))[0].backward()
    assert torch.isfinite(logits.grad).all()


def test_counted_tokens_that_are_not_finite_are_not_hidden():
    x = torch.tensor([math.nan])
    assert loss_of(x, x, x, torch.ones(1), torch.ones(1))[0].isnan()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(8, 30))
def test_ranks_and_microbatches_sum_to_the_whole_batch(seed, ranks, row_tokens):
    lengths, *rest = batch(samples=9, seed=seed)
    whole = tensors(lengths, *rest)
    loss, figures = loss_of(*whole)
    loss.backward()
    gradients = dict(enumerate(whole[0].grad.split(lengths)))
    pieces = [x.detach().split(lengths) for x in whole]
    total, sums = 0.0, dict.fromkeys(figures, 0.0)
    for row in (row for rank in pack(lengths, row_tokens, ranks) for row in rank if row):
        args = [torch.cat([piece[i] for i in row]) for piece in pieces]
        part, part_figures = loss_of(args[0].requires_grad_(), *args[1:])
        part.backward()
        total += part.item()
        sums = {name: sums[name] + value.item() for name, value in part_figures.items()}
        torch.testing.assert_close(args[0].grad, torch.cat([gradients.pop(i) for i in row]))
    assert total == pytest.approx(loss.item(), abs=1e-12)
    assert sums == pytest.approx({k: v.item() for k, v in figures.items()}, abs=1e-12)
    assert not gradients


def test_an_empty_row_is_worth_nothing():
    loss, figures = loss_of(*[torch.zeros(0)] * 5)
    assert loss.item() == 0
    assert all(value.item() == 0 for value in figures.values())


def test_sample_weights():
    torch.testing.assert_close(sample_weights([1, 4]), torch.tensor([1 / 2, 1 / 8]))
    lengths = torch.tensor([3, 5, 11])
    assert (sample_weights(lengths.tolist()) * lengths).sum().item() == pytest.approx(1)


def test_a_sample_without_tokens_is_refused_by_name():
    with pytest.raises(ValueError, match="sample 1 has 0 answer tokens"):
        sample_weights([3, 0])


def test_shapes_are_checked():
    with pytest.raises(TypeCheckError):
        loss_of(torch.zeros(3), torch.zeros(2), torch.zeros(3), torch.zeros(3), torch.zeros(3))
