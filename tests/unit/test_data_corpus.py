"""Each kind of text is what its name says, and a text is a function of its number."""

import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1mega.data.chain import chain, thought
from r1mega.data.corpus import Corpus, check_corpus_tasks, check_language_use, check_mixture, write
from r1mega.data.question import Question, question_id
from r1mega.data.sums import KINDS
from r1mega.data.tasks import generate
from r1mega.rewards import format as form

MIXTURE = {"right": 0.3, "slip": 0.2, "unformatted": 0.2, "guess": 0.2, "corrected": 0.1}
STEP = re.compile(r"(-?\d+) ([+-]) (-?\d+) = (-?\d+)")


def question(terms, signs):
    expression = str(terms[0])
    for sign, term in zip(signs, terms[1:], strict=True):
        expression += f" {sign} {term}"
    text = f"State the final answer to the following arithmetic problem: {expression} ="
    entry = {"metadata": {"expression": expression}}
    return Question(question_id(text), text, str(eval(expression)), "chain_sum", entry)


@st.composite
def chain_sums(draw, most=99):
    terms = draw(st.lists(st.integers(-most, most), min_size=2, max_size=6))
    signs = draw(st.lists(st.sampled_from("+-"), min_size=len(terms) - 1, max_size=len(terms) - 1))
    return question(terms, signs)


def wrong_steps(text):
    steps = [(int(a), op, int(b), int(c)) for a, op, b, c in STEP.findall(text)]
    return [(a, op, b, c) for a, op, b, c in steps if (a + b if op == "+" else a - b) != c]


@settings(deadline=None)
@given(chain_sums(), chain_sums(), st.integers())
def test_right_is_formatted_and_right_in_every_step(asked, other, seed):
    text = write("right", asked, other, random.Random(seed))
    assert form.score(text) == 1.0
    assert form.answer_of(text) == asked.answer
    assert not wrong_steps(text)


@settings(deadline=None)
@given(chain_sums(), chain_sums(), st.integers())
def test_slip_is_formatted_and_wrong_by_one_step(asked, other, seed):
    text = write("slip", asked, other, random.Random(seed))
    assert form.score(text) == 1.0
    assert len(wrong_steps(text)) == 1
    assert form.answer_of(text) != asked.answer
    assert form.answer_of(text) == STEP.findall(text)[-1][-1]


@settings(deadline=None)
@given(chain_sums(), chain_sums(), st.integers())
def test_unformatted_is_right_to_a_lenient_reader_alone(asked, other, seed):
    text = write("unformatted", asked, other, random.Random(seed))
    assert form.score(text) == 0.0
    assert form.answer_of(text) is None
    assert form.answer_any_format(text) == asked.answer
    assert not wrong_steps(text)


@settings(deadline=None)
@given(chain_sums(), chain_sums(), st.integers())
def test_guess_is_formatted_without_a_step_and_answers_another_question(asked, other, seed):
    text = write("guess", asked, other, random.Random(seed))
    assert form.score(text) == 1.0
    assert not STEP.search(text)
    assert form.answer_of(text) == other.answer


@settings(deadline=None)
@given(chain_sums(), chain_sums(), st.integers())
def test_corrected_mends_its_one_slip(asked, other, seed):
    text = write("corrected", asked, other, random.Random(seed))
    before, after = text.split(", wait, ")
    assert form.score(text) == 1.0
    assert form.answer_of(text) == asked.answer
    assert len(wrong_steps(before)) == 1
    assert not wrong_steps(after)


@settings(deadline=None)
@given(chain_sums())
def test_a_chain_ends_in_the_answer(asked):
    steps = chain(asked.entry["metadata"]["expression"])
    assert str(steps[-1].result) == asked.answer
    assert thought(steps).count(",") == len(steps) - 1


@pytest.mark.parametrize("expression", ["3 * 4", "3 + x", "3 +", ""])
def test_what_is_no_chain_sum_is_refused(expression):
    with pytest.raises(ValueError):  # noqa: PT011
        chain(expression)


def questions(count):
    rng = random.Random(0)
    return [question([rng.randrange(10) for _ in range(3)], "+-") for _ in range(count)]


def test_a_text_is_a_function_of_its_number():
    corpus, again = (Corpus(questions(50), MIXTURE, "short", seed=3) for _ in range(2))
    whole = [text for text, _ in zip(corpus.texts(), range(40), strict=False)]
    assert next(again.texts(start=25)) == whole[25] == corpus.text(25)
    assert Corpus(questions(50), MIXTURE, "short", seed=4).text(25) != whole[25]


def test_shares_are_those_of_the_mixture():
    corpus = Corpus(questions(50), MIXTURE, "short", seed=0)
    counts = Counter(corpus.text(number).kind for number in range(4_000))
    for kind, share in MIXTURE.items():
        assert counts[kind] / 4_000 == pytest.approx(share, abs=0.03)


def test_mixtures_are_checked_whole():
    assert check_mixture(MIXTURE, ["chain_sum"]) == []
    assert check_mixture({kind: 1 / len(KINDS) for kind in KINDS}, ["chain_sum"]) == []
    faults = check_mixture({"rihgt": 0.5, "slip": -0.1}, ["chain_sum"])
    assert faults == [
        "pretrain.mixture.rihgt: was 0.5; must be a kind of text, did you mean right?",
        "pretrain.mixture.slip: was -0.1; must be a share, from 0 to 1",
        "pretrain.mixture: was 0.4 in all; must sum to 1",
    ]


def test_kinds_are_those_of_the_tasks():
    names = ["world_problems", "world_requests"]
    assert check_mixture({"worked": 0.5, "helpful": 0.5}, names) == []
    faults = check_mixture({"worked": 0.5, "careful": 0.5}, names)
    assert [fault.split(":")[0] for fault in faults] == ["pretrain.mixture.careful"]


def test_uses_of_language_are_checked_and_need_thoughts_that_have_one():
    world, sums = ["world_problems"], ["chain_sum"]
    assert check_language_use({"same": 0.5, "mixed": 0.5}, world) == []
    assert check_language_use({"same": 1.0}, sums) == []
    faults = check_language_use({"same": 0.5, "mixde": 0.4}, world)
    assert faults == [
        "pretrain.language_use.mixde: was 0.4; must be a use of language, did you mean mixed?",
        "pretrain.language_use: was 0.9 in all; must sum to 1",
    ]
    [fault] = check_language_use({"other": 1.0}, sums)
    assert "the thoughts of chain_sum have no language" in fault


def test_a_kind_is_written_to_questions_of_the_tasks_that_have_it():
    tasks = [("world_problems", {}, 2.0), ("world_requests", {}, 1.0), ("chain_sum", {}, 1.0)]
    mixture = {"helpful": 0.25, "worked": 0.25, "slip": 0.25, "corrected": 0.25}
    questions = generate(tasks, 80, 0, 0).train
    corpus = Corpus(questions, mixture, "short", 0)
    task_of = {question.text: question.task for question in questions}
    met = set()
    for number in range(400):
        text = corpus.text(number)
        [task] = {of for asked, of in task_of.items() if asked in text.prompt}
        met.add((text.kind, task))
    assert met == {
        ("helpful", "world_requests"),
        ("worked", "world_problems"),
        ("slip", "world_problems"),
        ("slip", "chain_sum"),
        ("corrected", "chain_sum"),
    }


def test_only_sums_of_two_terms_and_more_can_be_written_out():
    assert check_corpus_tasks([("chain_sum", {"max_terms": 4}, 1.0)]) == []
    faults = check_corpus_tasks([("countdown", {}, 1.0), ("chain_sum", {"min_terms": 1}, 1.0)])
    assert [fault.split(":")[0] for fault in faults] == [
        "data.tasks[0].name",
        "data.tasks[1].parameters.min_terms",
    ]
