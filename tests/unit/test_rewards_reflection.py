"""Words of reflection, in both languages, and what only looks like them."""

import pytest

from r1mega.rewards.reflection import reflection_words, reflects


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Wait, that is wrong; check again.", 3),
        ("WAIT", 1),
        ("等等, 这里错了, 重新检查", 4),
        ("错误", 1),
        ("等wait一下", 1),  # Han letters beside a word do not hide it
        ("但是 but 然而 however", 4),
        ("the waiter butters checkered errors", 0),
        ("不错, 很好", 0),
        ("", 0),
    ],
)
def test_words_are_counted_whole(text, count):
    assert reflection_words(text) == count
    assert reflects(text) is (count > 0)


PAPER = ("wait", "mistake", "however", "but", "retry", "error", "verify", "wrong", "evaluate", "check")


@pytest.mark.parametrize("word", PAPER)
def test_the_papers_words_are_all_there(word):
    assert reflects(f"so {word}.")
