"""The rating of greatest likelihood, on cases solved by hand, at the ends, and by another way to fit."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1mega.track.rating import PopulationError, fit, population, read_population, solve_probability


@pytest.mark.parametrize(
    ("difficulties", "solved", "rating"),
    [
        ([1500, 1500], [1, 0], 1500),  # even odds
        ([1200] * 11, [1] * 10 + [0], 1600),  # ten to one
        ([1200] * 11, [0] * 10 + [1], 800),
        ([1000, 2000], [1, 0], 1500),  # by symmetry
        ([1000, 2000], [0, 1], 1500),  # which one does not matter
        ([1500] * 4, [0.75, 0.25, 1, 0], 1500),  # shares of samples
        ([1500], [1], 1500),  # half a problem of one
        ([1500] * 5, [1] * 5, 1500 + 400 * math.log10(9)),  # four and a half to a half
        ([1500] * 5, [0] * 5, 1500 - 400 * math.log10(9)),
    ],
)
def test_hand_worked_ratings(difficulties, solved, rating):
    found = fit(difficulties, solved)
    assert found.rating == pytest.approx(rating, abs=1e-3)
    assert found.ci95[0] < found.rating < found.ci95[1]


def test_four_hundred_points_are_ten_to_one():
    assert solve_probability(1900, 1500) == pytest.approx(10 / 11)
    assert solve_probability(1500, 1500) == 0.5
    assert solve_probability(1500, 9_500) == pytest.approx(1e-20)


def test_ratings_far_apart_do_no_harm():
    assert 0 < fit([0, 1e6], [1, 0]).rating < 1e6
    assert solve_probability(0, 1e7) == 0.0


def test_the_interval_of_equal_problems_is_that_of_their_share():
    """With one difficulty the rating is the logit of a binomial share, whose interval is known."""
    low, high = fit([1500] * 100, [1] * 60 + [0] * 40).ci95

    def deviance(rating):
        p = solve_probability(rating, 1500)
        return 2 * (60 * math.log(0.6 / p) + 40 * math.log(0.4 / (1 - p)))

    assert deviance(low) == pytest.approx(3.8415, abs=1e-3)
    assert deviance(high) == pytest.approx(3.8415, abs=1e-3)
    # Fisher: 1 / sqrt(n p q) nats of 400 / ln 10 points each
    half = 1.96 * 400 / math.log(10) / math.sqrt(100 * 0.24)
    assert (high - low) / 2 == pytest.approx(half, rel=0.02)


problems = st.lists(st.tuples(st.integers(800, 3500), st.sampled_from([0, 0.25, 1])), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(problems)
def test_newtons_method_finds_the_same(rows):
    difficulties, solved = zip(*rows, strict=True)
    found = fit(difficulties, solved)
    total = min(max(sum(solved), 0.5), len(solved) - 0.5)
    ps = [solve_probability(found.rating, d) for d in difficulties]
    step = (sum(ps) - total) / sum(p * (1 - p) for p in ps) * 400 / math.log(10)
    assert abs(step) < 1e-3
    assert found.ci95[0] < found.rating < found.ci95[1]
    assert all(map(math.isfinite, found.ci95))


@settings(max_examples=60, deadline=None)
@given(problems)
def test_solving_one_more_never_lowers_the_rating(rows):
    difficulties, solved = zip(*rows, strict=True)
    better = [1.0, *solved[1:]]
    assert fit(difficulties, better).rating >= fit(difficulties, solved).rating - 1e-5


def test_a_true_rating_is_found_again_and_covered():
    import random

    draw = random.Random(0)
    difficulties = [draw.randrange(800, 3500, 100) for _ in range(150)]
    covered, errors = 0, []
    for _ in range(100):
        solved = [float(draw.random() < solve_probability(1900, d)) for d in difficulties]
        found = fit(difficulties, solved)
        covered += found.ci95[0] <= 1900 <= found.ci95[1]
        errors.append(found.rating - 1900)
    assert abs(sum(errors) / len(errors)) < 20
    assert 0.90 <= covered / 100 <= 0.99


@pytest.mark.parametrize(
    ("difficulties", "solved"),
    [([], []), ([1500], [1, 0]), ([1500], [1.5]), ([1500], [math.nan]), ([math.inf], [1])],
)
def test_nonsense_is_refused(difficulties, solved):
    with pytest.raises(ValueError, match=r"not paired|between 0 and 1|finite"):
        fit(difficulties, solved)


def test_the_percentile_is_the_share_of_people_below():
    people = population([(1200, 1), (1000, 2), (1400, 1)])
    assert [people.percentile(r) for r in (900, 1000, 1001, 1200, 1300, 1400, 1401)] == [
        0,
        0,
        50,
        50,
        75,
        75,
        100,
    ]
    assert population([(1500, 1), (1500, 3)]).percentile(1501) == 100


@pytest.mark.parametrize("people", [[], [(1000, 0)], [(1000, -1), (1200, 3)], [(math.nan, 1)]])
def test_no_people_are_refused(people):
    with pytest.raises(ValueError, match="shares"):
        population(people)


def test_files_of_either_form(tmp_path):
    path = tmp_path / "ratings.txt"
    path.write_text("# people\n1000\n1200\n\n1400\n1600\n")
    assert read_population(path).percentile(1300) == 50
    path.write_text("1000,0.2\n1200, 0.3\r\n1400,0.5\n")
    assert read_population(path).percentile(1300) == pytest.approx(50)


def test_every_bad_line_is_named(tmp_path):
    path = tmp_path / "ratings.txt"
    path.write_text("rating,share\n1000\n1200,\nnan\n1400,-1\n1,2,3\n")
    with pytest.raises(PopulationError) as caught:
        read_population(path)
    assert [line.split(": ")[0] for line in str(caught.value).split("\n")] == [
        f"{path}:{n}" for n in (1, 3, 4, 5, 6)
    ]
    path.write_text("\n")
    with pytest.raises(PopulationError, match="holds no rating"):
        read_population(path)
    with pytest.raises(PopulationError, match="cannot be read"):
        read_population(tmp_path / "absent")
