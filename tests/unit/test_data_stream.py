"""The stream is a function of questions, seed and position, and resumes anywhere."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1mega.data.question import Question, question_id
from r1mega.data.stream import QuestionStream


def questions(count):
    return [Question(question_id(str(i)), str(i), str(i), "t") for i in range(count)]


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(), st.lists(st.integers(0, 30), max_size=5), st.integers(0, 40))
def test_a_resumed_stream_goes_on_as_the_undisturbed_one(count, seed, takes, more):
    stream = QuestionStream(questions(count), seed)
    for take in takes:
        stream.take(take)
    state = json.loads(json.dumps(stream.state()))
    assert QuestionStream.from_state(questions(count), state).take(more) == stream.take(more)


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(), st.lists(st.integers(0, 30), max_size=5))
def test_how_it_is_taken_does_not_matter(count, seed, takes):
    stream = QuestionStream(questions(count), seed)
    piecewise = [question for take in takes for question in stream.take(take)]
    assert piecewise == QuestionStream(questions(count), seed).take(sum(takes))


@settings(deadline=None)
@given(st.integers(1, 20), st.integers())
def test_each_epoch_asks_each_question_once(count, seed):
    stream = QuestionStream(questions(count), seed)
    for epoch in range(3):
        assert stream.epoch == epoch
        assert sorted(q.id for q in stream.take(count)) == sorted(q.id for q in questions(count))


def test_epochs_and_seeds_differ_in_order():
    stream, other = (QuestionStream(questions(50), seed) for seed in (0, 1))
    orders = [tuple(q.id for q in s.take(50)) for s in (stream, stream, other)]
    assert len(set(orders)) == 3


def test_other_questions_are_refused():
    state = QuestionStream(questions(5), 0).state()
    for others in (questions(6), questions(5)[::-1]):
        with pytest.raises(ValueError, match="not those of the run that is resumed"):
            QuestionStream.from_state(others, state)


def test_no_question_is_refused():
    with pytest.raises(ValueError, match="at least one question"):
        QuestionStream([], 0)
