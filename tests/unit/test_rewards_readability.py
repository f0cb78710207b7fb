"""Each fault of an answer is found alone, and a readable answer has none."""

import pytest

from r1mega.rewards.readability import REASONS, faults

GOOD = "<think>\nFirst add two and three.\nThat makes 5.\n</think>\n<answer> 5 </answer>"


def thinking(thought):
    return f"<think> {thought} </think> <answer> 5 </answer>"


NUMBERED = [
    f"word{'abcdefghij'[i % 10]}{'klmnopqrst'[i // 10 % 10]}{'uvwxyzabcd'[i // 100]}" for i in range(700)
]


@pytest.mark.parametrize(
    ("text", "language", "reasons"),
    [
        (GOOD, "en", []),
        (thinking("先把二和三相加"), "zh", []),
        (thinking("2 + 3 = 5"), "zh", []),  # no word, no wrong language
        ("two and three <answer> 5 </answer>", "en", ["no_thought"]),
        ("<think> </think> <answer> 5 </answer>", "en", ["no_thought"]),
        ("<think> two and three </think>", "en", ["no_summary"]),
        ("<think> two and three </think> <answer> </answer>", "en", ["no_summary"]),
        ("", "en", ["no_thought", "no_summary"]),
        (thinking("two 和 three"), "en", ["mixed_language"]),
        (thinking("先把二和三相加"), "en", ["wrong_language"]),
        (thinking("two\n```\nprint(5)\n```\n"), "en", ["code_in_thought"]),
        (thinking("two\n```python\nprint(5)"), "en", ["code_in_thought"]),
        (thinking("use `print` here"), "en", []),
        (thinking(" ".join(NUMBERED[:300])), "en", []),
        (thinking(" ".join(NUMBERED[:301])), "en", ["run_on_paragraph"]),
        (thinking("\n".join(" ".join(NUMBERED[i : i + 100]) for i in range(0, 700, 100))), "en", []),
        (thinking("9" * 3_001), "en", ["run_on_paragraph"]),
        (thinking("wait " * 64), "en", ["repetition"]),
        (thinking("wait " * 63), "en", []),
        (thinking("\n".join(["我们先把第一个数和第二个数加起来再说"] * 4)), "zh", ["repetition"]),
        (thinking("\n".join(["我们先把第一个数和第二个数加起来再说"] * 3)), "zh", []),
    ],
)
def test_each_fault_is_named(text, language, reasons):
    assert faults(text, language) == reasons


def test_limits_are_the_callers():
    text = thinking("one two three four")
    assert faults(text, "en", paragraph_words=3) == ["run_on_paragraph"]
    assert faults(text, "en", paragraph_characters=10) == ["run_on_paragraph"]
    assert faults(thinking("a b a b"), "en", repeated_words=2, repetitions=2) == ["repetition"]


def test_every_reason_is_one_that_can_be_named():
    everything = "先 " + "wait " * 500 + "\n```\n"
    assert set(faults(everything, "en")) == set(REASONS) - {"wrong_language"}
