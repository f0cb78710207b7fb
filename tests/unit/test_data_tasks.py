"""Questions are distinct, split before training, and a function of tasks, counts and seed."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1mega.data import tasks
from r1mega.data.task_checks import check_tasks
from r1mega.data.tasks import TooFewQuestionsError, generate, shares

SUMS = ("chain_sum", {"min_terms": 3, "max_terms": 4, "min_digits": 1, "max_digits": 1}, 3.0)
PRODUCTS = ("products", {"max_digits": 2}, 1.0)


def texts(questions):
    return [question.text for question in questions]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**40), st.integers(1, 60), st.integers(0, 60))
def test_sets_are_distinct_disjoint_and_of_the_asked_size(seed, train, held_out):
    questions = generate([SUMS, PRODUCTS], train, held_out, seed)
    every = texts(questions.train) + texts(questions.held_out)
    assert len(questions.train) == train
    assert len(questions.held_out) == held_out
    assert len(set(every)) == len(every) == len({q.id for q in questions.train + questions.held_out})


def test_the_same_seed_gives_the_same_questions_and_another_gives_others():
    first, again, other = (generate([SUMS], 50, 20, seed) for seed in (1, 1, 2))
    assert first == again
    assert set(texts(first.held_out)) != set(texts(other.held_out))


def test_held_out_questions_do_not_depend_on_how_many_are_trained_on():
    few, many = (generate([SUMS, PRODUCTS], train, 40, 7) for train in (10, 900))
    assert few.held_out == many.held_out


def test_generation_leaves_the_global_generator_alone():
    random.seed(5)
    state = random.getstate()
    generate([SUMS], 20, 5, 0)
    assert random.getstate() == state


def test_two_tasks_that_ask_the_same_share_no_question():
    questions = generate([SUMS, SUMS], 300, 100, 0)
    assert len(set(texts(questions.train + questions.held_out))) == 400


def test_shares_follow_the_weights():
    questions = generate([SUMS, PRODUCTS], 400, 40, 0)
    assert sum(q.task == "chain_sum" for q in questions.train) == 300
    assert sum(q.task == "chain_sum" for q in questions.held_out) == 30


@settings(deadline=None)
@given(st.integers(0, 10_000), st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6))
def test_shares_sum_to_the_total_and_are_within_one_of_exact(total, weights):
    parts = shares(total, weights)
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - total * weight / sum(weights)) < 1 + 1e-6


def test_a_task_with_too_few_questions_says_how_many_it_has():
    small = ("chain_sum", {"max_terms": 2, "max_digits": 1}, 1.0)  # 10 x 10 x 2 sums
    with pytest.raises(TooFewQuestionsError, match=r"data\.tasks\[0\].*512 held-out .*only 200 were"):
        generate([small], 100, 512, 0)


def test_a_generator_that_fails_is_named(monkeypatch):
    monkeypatch.setattr(tasks, "_CHUNK", 10**9)  # more words than word_ladder has
    with pytest.raises(ValueError, match=r"data\.tasks\[0\] \(word_ladder\)"):
        generate([("word_ladder", {}, 1.0)], 5, 5, 0)


def test_good_tasks_have_no_fault():
    assert check_tasks([SUMS, PRODUCTS, ("power_function", {}, 1.0)]) == []


def test_every_fault_of_every_task_is_reported_at_once():
    faults = check_tasks(
        [
            ("chain_sun", {}, 1.0),
            ("chain_sum", {"max_term": 4, "min_terms": "3", "size": 9}, -1.0),
            ("chain_sum", {"min_terms": 9}, 1.0),
            ("game_of_life_halting", {}, float("nan")),
            ("chain_sum", {"allow_negation": 1}, 1.0),
        ]
    )
    starts = [
        "data.tasks[0].name: was chain_sun; must be world_problems, world_requests, world_safety"
        " or reasoning-gym's, did you mean chain_sum?",
        "data.tasks[1].weight: was -1.0;",
        "data.tasks[1].parameters.max_term: was 4; must be a parameter of the task, did you mean",
        "data.tasks[1].parameters.min_terms: was '3'; must be a whole number",
        "data.tasks[1].parameters.size: was 9; must be left out",
        "data.tasks[2].parameters.min_terms: was 9; reasoning-gym says: max_terms must be >=",
        "data.tasks[3].weight: was nan;",
        "data.tasks[3].name: was game_of_life_halting;",
        "data.tasks[4].parameters.allow_negation: was 1; must be true or false",
    ]
    assert len(faults) == len(starts)
    for fault, start in zip(faults, starts, strict=True):
        assert fault.startswith(start)


def test_no_task_at_all_is_a_fault():
    assert check_tasks([]) == ["data.tasks: was empty; must name at least one task"]
