"""Intervals: hand-worked, against simulation, and inside what a rate can be."""

import math
import random
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1mega.track.stats import Z_95, before_after, mean_ci95, mean_of, wilson_ci95

rates = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=30)


def test_hand_worked_gain():
    result = before_after([0.0, 0.5, 0.25, 0.25], [0.5, 0.5, 0.75, 0.25])
    # gains 0.5, 0, 0.5, 0: mean 0.25, sample deviation sqrt(4 * 0.0625 / 3) = 0.288675
    half = 1.959964 * 0.288675 / 2
    assert result["base"] == 0.25
    assert result["final"] == 0.5
    assert result["gain"] == 0.25
    assert result["gain_ci95"] == pytest.approx([0.25 - half, 0.25 + half], abs=1e-6)
    assert result["base_ci95"][0] == pytest.approx(0.25 - 1.959964 * math.sqrt(0.125 / 3) / 2)


@settings(deadline=None)
@given(rates)
def test_intervals_hold_their_mean_and_stay_in_range(pairs):
    base, final = (list(side) for side in zip(*pairs, strict=True))
    result = before_after(base, final)
    for which, low in (("base", 0), ("final", 0), ("gain", -1)):
        lo, hi = result[f"{which}_ci95"]
        assert low <= lo <= result[which] + 1e-12
        assert result[which] - 1e-12 <= hi <= 1
    assert result["gain"] == pytest.approx(result["final"] - result["base"], abs=1e-12)


def test_the_interval_covers_the_truth_19_times_in_20():
    rng = random.Random(0)
    hits = 0
    for _ in range(1000):
        # Questions of unlike hardness, each with 16 samples; the true mean rate is 1/2.
        drawn = (rng.random() for _ in range(64))
        values = [fmean(rng.random() < p for _ in range(16)) for p in drawn]
        low, high = mean_ci95(values, low=0)
        hits += low <= 0.5 <= high
    assert 930 <= hits <= 970


def test_pairing_takes_out_how_hard_a_question_is():
    rng = random.Random(1)
    base = [rng.random() * 0.8 for _ in range(50)]
    final = [rate + 0.1 + rng.random() * 0.05 for rate in base]
    result = before_after(base, final)
    gain, plain = (hi - lo for lo, hi in (result["gain_ci95"], result["base_ci95"]))
    assert gain < plain / 5


@pytest.mark.parametrize(
    ("base", "final", "message"),
    [
        ([0.1, 0.2], [0.1], "not paired"),
        ([0.1], [0.1], "at least 2"),
        ([0.1, 1.2], [0.1, 0.2], "between 0 and 1"),
        ([0.1, math.nan], [0.1, 0.2], "between 0 and 1"),
    ],
)
def test_bad_rates_are_refused(base, final, message):
    with pytest.raises(ValueError, match=message):
        before_after(base, final)


@pytest.mark.parametrize(("right", "questions"), [(0, 10), (1, 10), (5, 10), (10, 10), (1, 1), (141, 198)])
def test_wilsons_ends_are_z_deviations_from_what_was_seen(right, questions):
    low, high = wilson_ci95(right, questions)
    assert 0 <= low <= right / questions <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            deviation = math.sqrt(end * (1 - end) / questions)
            assert abs(right / questions - end) == pytest.approx(Z_95 * deviation)


def test_wilsons_interval_has_width_where_all_agree():
    assert wilson_ci95(10, 10) == [pytest.approx(1 / (1 + Z_95**2 / 10)), 1.0]
    for right, questions in ((1, 0), (2, 1), (-1, 1)):
        with pytest.raises(ValueError, match="no share"):
            wilson_ci95(right, questions)


def test_a_models_measure_has_the_interval_that_fits_its_values():
    trials = [1.0, 0.0, 1.0, 1.0]
    assert mean_of(trials) == {"mean": 0.75, "ci95": wilson_ci95(3, 4)}
    assert mean_of([1.0, 1.0])["ci95"][0] < 1.0  # certainty is not to be had from two questions
    shares = [0.25, 0.5, 1.0]
    assert mean_of(shares) == {"mean": pytest.approx(7 / 12), "ci95": mean_ci95(shares, low=0)}
    low, high = mean_of([30.0, 50.0, 40.0])["ci95"]
    assert 0 < low < 40 < high <= 50
    with pytest.raises(ValueError, match="at least 2"):
        mean_of([1.0])
