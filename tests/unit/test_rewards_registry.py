"""Components stay apart until weighed, and wrong weights are found beforehand."""

import pytest

from r1mega.data.question import Question
from r1mega.rewards import METRICS, NAMES, check_weights, combine
from r1mega.rewards.registry import answers_in, score

ENTRY = {"question": "4 + 4 =", "answer": "8"}
EIGHT = Question("s", "4 + 4 =", "8", "chain_sum", ENTRY)


@pytest.mark.parametrize(
    ("text", "accuracy", "lenient", "form"),
    [
        ("<think> a </think> <answer> 8 </answer>", 1.0, 1.0, 1.0),
        ("<think> a </think> <answer> 9 </answer>", 0.0, 0.0, 1.0),
        ("<answer> 8 </answer>", 1.0, 1.0, 0.0),
        ("it is 8", 0.0, 1.0, 0.0),
        ("", 0.0, 0.0, 0.0),
    ],
)
def test_components_are_judged_each_for_itself(text, accuracy, lenient, form):
    expected = {"accuracy": accuracy, "accuracy_any_format": lenient, "format": form}
    found = score(EIGHT, text)
    assert {name: found[name] for name in expected} == expected
    assert set(found) == set(NAMES)


def test_language_is_held_against_the_question():
    text = "<think> wait, 再 add </think> <answer> 8 </answer>"
    chinese = Question("z", "四加四", "8", "chain_sum", ENTRY, language="zh")
    assert score(EIGHT, text)["language"] == pytest.approx(2 / 3)
    assert score(chinese, text)["language"] == pytest.approx(1 / 3)
    assert (score(chinese, text)["mixed_language"], score(chinese, text)["reflects"]) == (1.0, 1.0)


def test_a_truncated_answer_earns_nothing_and_is_not_verified():
    text = "<think> a </think> <answer> 8 </answer>"
    assert set(score(EIGHT, text, truncated=True).values()) == {0.0}
    assert answers_in(EIGHT, text, truncated=True) == set()
    assert answers_in(EIGHT, text) == {"8"}


def test_the_reward_is_the_weighed_sum():
    components = {"accuracy": 1.0, "accuracy_any_format": 1.0, "format": 0.0}
    assert combine(components, {"accuracy": 1.0, "format": 1.0}) == 1.0
    assert combine(components, {"accuracy": 0.25}) == 0.25


def test_weights_are_checked_whole():
    assert check_weights({"reasoning": {"accuracy": 1.0, "format": 1.0}}) == []
    assert check_weights({"reasoning": {"accuracy": 1.0, "format": 0.0}, "general": {"helpful": 1.0}}) == []
    metric = sorted(METRICS)[0]
    wrong = {"acuracy": 1.0, metric: 1.0, "format": -1.0, "accuracy": float("nan")}
    assert check_weights({"reasoning": wrong, "gossip": {"format": 1.0}}) == [
        "reward.weights.gossip: must be a kind of question, it may be reasoning, general, safety",
        "reward.weights.reasoning.acuracy: was 1.0; must be a reward, did you mean accuracy?",
        f"reward.weights.reasoning.{metric}: was 1.0; must be left out, it is a metric and no reward",
        "reward.weights.reasoning.format: was -1.0; must be a number of at least 0",
        "reward.weights.reasoning.accuracy: was nan; must be a number of at least 0",
    ]


@pytest.mark.parametrize("weights", [{}, {"accuracy": 0.0}])
def test_a_reward_of_nothing_is_a_fault(weights):
    (fault,) = check_weights({"general": weights})
    assert fault.startswith("reward.weights.general: was all zero")
