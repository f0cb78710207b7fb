"""Held-out problems share no step with anything trained on, and each kind of text is what it says."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1mega.data.corpus import Corpus, write
from r1mega.data.task_checks import check_tasks
from r1mega.data.tasks import TooFewQuestionsError, generate
from r1mega.data.world import steps, thoughts
from r1mega.data.world.problem_texts import KINDS
from r1mega.data.world.texts import cold_start
from r1mega.rewards import format as form
from r1mega.rewards.accuracy import verify
from r1mega.rewards.language import words_by_language

STEPS = {"min_steps": 2, "max_steps": 4}
PROBLEMS = ("world_problems", STEPS | {"training_steps": "familiar"}, 1.0)
RIGHT = ("brief", "worked", "checked")
EQUATION = re.compile(r"(\d+) ([+-]) (\d+) = (\d+)")
STATED = re.compile(r"(?<![+-] )\b(\d+) ([+-]) (\d+)(?=:| =)")  # a whole step, and no tail of a longer sum


@pytest.fixture(scope="module")
def world():
    return generate([PROBLEMS], 1_500, 400, 0)


def sums_stated(text):
    """Each sum of a two-digit term that is not a multiple of ten, as its two smaller numbers."""
    for left, op, right in STATED.findall(text):
        a, b = int(left), int(right)
        if b > 10 and b % 10:
            yield tuple(sorted((a, b) if op == "+" else (a - b, b)))


def sums_of(question):
    value, *rest = question.entry["expression"].split()
    value = int(value)
    for op, term in zip(rest[::2], map(int, rest[1::2]), strict=True):
        yield tuple(sorted((value, term) if op == "+" else (value - term, term)))
        value += term if op == "+" else -term


def wrong(text):
    return [e for e in EQUATION.findall(text) if eval("".join(e[:3])) != int(e[3])]


@pytest.fixture(scope="module")
def new_world():
    return generate([("world_problems", STEPS | {"training_steps": "new"}, 1.0)], 1_500, 400, 0)


def test_no_text_to_learn_states_a_step_of_a_held_out_or_a_new_question(world, new_world):
    held_out = {one for question in world.held_out for one in sums_of(question)}
    new = {one for question in new_world.train for one in sums_of(question)}
    assert len(held_out) > 300 < len(new)
    corpus = Corpus(world.train, dict.fromkeys(KINDS, 1 / len(KINDS)), "short", 0, {"mixed": 1.0})
    texts = [corpus.text(number).answer for number in range(6_000)]
    texts += [row["answer"] for row, _ in zip(cold_start(0), range(1_000), strict=False)]
    learnt = {one for text in texts for one in sums_stated(text)}
    learnt |= {one for question in world.train for one in sums_of(question)}
    assert len(learnt) > 500
    assert not held_out & learnt
    assert not new & learnt


def test_held_out_questions_are_the_same_whatever_training_asks(world, new_world):
    assert world.held_out == new_world.held_out
    both = generate([("world_problems", STEPS, 1.0)], 600, 400, 0)
    assert both.held_out == world.held_out
    trained = {one for question in (*both.train, *new_world.train) for one in sums_of(question)}
    assert not trained & {one for question in world.held_out for one in sums_of(question)}


def test_each_set_has_its_share_of_the_steps_whichever_way_they_are_stated():
    ways = [(a, b) for a in range(100) for b in steps.TERMS if a + b <= steps.LARGEST]
    sets = [steps.set_of(a, "+", b) for a, b in ways]
    for name, share in {"held_out": 0.2, "familiar": 0.4, "new": 0.4}.items():
        assert sets.count(name) / len(ways) == pytest.approx(share, abs=0.02)
    for (a, b), name in zip(ways, sets, strict=True):
        assert name == steps.set_of(b, "+", a) == steps.set_of(a + b, "-", b) == steps.set_of(a + b, "-", a)


def test_problems_state_their_numbers_and_stay_in_the_world(world):
    for question in world.train + world.held_out:
        numbers = re.findall(r"\d+", question.text)
        assert numbers == question.entry["expression"].split()[::2]
        assert question.answer == str(eval(question.entry["expression"]))
        assert 2 <= len(numbers) - 1 <= 4
        assert all(int(number) in steps.TERMS for number in numbers)
        assert verify(question, question.answer)
    by_language = [q.language for q in world.train]
    assert by_language.count("zh") / len(by_language) == pytest.approx(0.5, abs=0.05)


def test_an_answer_is_a_whole_number_and_nothing_else(world):
    asked = world.train[0]
    right = asked.answer
    assert verify(asked, f" {right}\n")
    assert verify(asked, f"+{right}")
    for given_ in (f"{right} apples", f"{right}.0", f"{right} + 0", "", f"{right}{right}", "９", "1e1", "-"):
        assert not verify(asked, given_)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(RIGHT), st.sampled_from(thoughts.USES), st.integers())
def test_right_kinds_are_right(world, data, kind, use, seed):
    asked = data.draw(st.sampled_from(world.train))
    text = write(kind, asked, asked, random.Random(seed), use)
    assert form.score(text) == 1.0
    assert form.answer_of(text) == asked.answer
    mended = re.search("mistake|错了", text)
    assert len(wrong(text)) == (1 if mended else 0)
    assert not mended or kind == "checked"
    assert ("check" in text or "检查" in text) == (kind == "checked")


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers())
def test_a_direct_thought_is_the_whole_formula(world, data, seed):
    asked = data.draw(st.sampled_from(world.train))
    text = write("direct", asked, asked, random.Random(seed))
    assert form.score(text) == 1.0
    assert f"{asked.entry['expression']} = {asked.answer}" in text
    assert form.answer_of(text) == asked.answer


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers())
def test_worked_steps_go_by_tens_and_ones(world, data, seed):
    asked = data.draw(st.sampled_from(world.train))
    text = write("worked", asked, asked, random.Random(seed))
    assert all(int(right) % 10 == 0 or int(right) < 10 for _, _, right, _ in EQUATION.findall(text))
    assert len(list(sums_stated(text))) == len(list(sums_of(asked)))


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers())
def test_a_slip_is_one_wrong_equation_and_the_answer_that_follows(world, data, seed):
    asked = data.draw(st.sampled_from(world.train))
    text = write("slip", asked, asked, random.Random(seed))
    assert form.score(text) == 1.0
    assert len(wrong(text)) == 1
    assert form.answer_of(text) == EQUATION.findall(text)[-1][-1] != asked.answer


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers())
def test_unformatted_and_guessed_texts_earn_nothing_for_form_or_answer(world, data, seed):
    asked, other = (data.draw(st.sampled_from(world.train)) for _ in range(2))
    loose = write("unformatted", asked, other, random.Random(seed))
    assert (form.score(loose), form.answer_of(loose)) == (0.0, None)
    assert form.answer_any_format(loose) == asked.answer
    guess = write("guess", asked, other, random.Random(seed))
    assert form.answer_of(guess) == other.answer
    assert not EQUATION.search(guess)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(list(KINDS)), st.integers())
def test_a_thought_keeps_to_the_language_or_languages_asked_for(world, data, kind, seed):
    asked = data.draw(st.sampled_from(world.train))
    other = "zh" if asked.language == "en" else "en"
    for use, languages in {
        "same": {asked.language},
        "other": {other},
        "mixed": {asked.language, other},
    }.items():
        counts = words_by_language(write(kind, asked, asked, random.Random(seed), use))
        assert {language for language, count in counts.items() if count} == languages
        assert sum(counts.values()) >= 5


def test_longer_styles_are_longer(world):
    def mean(kind):
        texts = [write(kind, q, q, random.Random(i)) for i, q in enumerate(world.train[:300])]
        return sum(len(text.split()) for text in texts) / len(texts)

    assert mean("brief") * 1.5 < mean("worked") < mean("checked") * 1.5


def test_parameters_are_checked():
    assert check_tasks([PROBLEMS]) == []
    faults = check_tasks(
        [
            ("world_problems", {"min_steps": 3, "max_steps": 2}, 1.0),
            ("world_problems", {"max_steps": 9}, 1.0),
            ("world_problems", {"zh_share": 2, "steps": 1}, 1.0),
            ("world_problem", {}, 1.0),
            ("world_problems", {"training_steps": "all"}, 1.0),
        ]
    )
    starts = [
        "data.tasks[0].parameters.min_steps: was 3; world_problems says: min_steps must be",
        "data.tasks[1].parameters.max_steps: was 9; world_problems says: max_steps must be",
        "data.tasks[2].parameters.steps: was 1; must be a parameter of the task",
        "data.tasks[3].name: was world_problem; must be",
        "data.tasks[4].parameters.training_steps: was all; world_problems says: training_steps must be",
    ]
    assert len(faults) == len(starts)
    for fault, start in zip(faults, starts, strict=True):
        assert fault.startswith(start)


def test_a_finite_task_says_how_many_questions_it_has():
    with pytest.raises(TooFewQuestionsError, match=r"data\.tasks\[0\] \(world_safety\): 5000 training"):
        generate([("world_safety", {}, 1.0)], 5_000, 10, 0)
