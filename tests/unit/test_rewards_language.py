"""The share of words in a language, on cases counted by hand, and on texts made to cheat or to stall."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1mega.rewards.language import LANGUAGES, consistency, is_mixed, language_of, words_by_language
from r1mega.rewards.thought import has_thought, summary_of, thought_of

ENGLISH = "<think> first add two and three </think> <answer> 5 </answer>"
CHINESE = "<think> 先算 2 + 3 = 5 </think> <answer> 5 </answer>"


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("add two and three", {"en": 4}),
        ("先把数相加", {"zh": 5}),
        ("I add 2 and 3 得到 5", {"en": 3, "zh": 2}),
        ("don't, it’s well-known", {"en": 4}),
        ("2 + 3 = 5; 1,000.5 % ½ ② x² ≤ ∞", {}),
        (r"so $x=中文$ and \(速度\) or \[路程\] or $$时间$$ end", {"en": 5}),
        (r"2 \times 3 \cdot 4 得", {"zh": 1}),
        ("pay $5 中 and $6 文", {"en": 2, "zh": 2}),
        ("say `中文` aloud", {"en": 2}),
        ("one\n```python\n中文 words here\n```\ntwo", {"en": 2}),
        ("one\n~~~\n中文\n~~~\ntwo", {"en": 2}),
        ("<b>bold</b> <br/> 字", {"en": 1, "zh": 1}),
        ("设 x 为苹果, 2y = B", {"zh": 4}),
        ("A train and I", {"en": 4}),
        ("选 A", {"zh": 1}),
        ("angle π of αβ", {"en": 2, "foreign": 1}),
        ("café naïve", {"en": 2}),
        ("привет мир", {"ru": 2}),
        ("안녕 hello", {"foreign": 1, "en": 1}),
        ("", {}),
    ],
)
def test_words_are_counted_as_by_hand(text, counts):
    assert words_by_language(text) == counts


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("<全部 中文>", {"zh": 4}),  # no tag
        ("<the whole thought in here>", {"en": 5}),
        ("ok\n```\n中文", {"en": 1, "zh": 2}),  # never closed, so no code
        ("ok $中文", {"en": 1, "zh": 2}),
        ("ok $中\n\n文$", {"en": 1, "zh": 2}),  # a formula ends with its paragraph
        ("ok `中\n\n文`", {"en": 1, "zh": 2}),
        ("ok ~~~\n中文\n```", {"en": 1, "zh": 2}),
        ("w\u200bai\u00adt", {"en": 1}),  # zero width, soft hyphen
        ("z\u0338\u0301a\u0338l", {"en": 1}),  # combining marks
        ("ｆｕｌｌ 𝐛𝐨𝐥𝐝 ⓒⓘⓡ", {"en": 3}),
        ("w\u0430it", {"en": 1, "ru": 1}),  # a Cyrillic letter that looks Latin
        ("\u3000中\ufeff文\u2060", {"zh": 2}),
        ("\U00020000", {"zh": 1}),
    ],
)
def test_words_cannot_be_hidden(text, counts):
    assert words_by_language(text) == counts


def test_the_share_is_of_the_thought_alone():
    assert consistency(ENGLISH, "en") == 1.0
    assert consistency(ENGLISH, "zh") == 0.0
    assert consistency(CHINESE, "zh") == 1.0
    assert consistency("<think> one 二 three 四 </think> all the rest is English", "zh") == 0.5
    assert consistency("<think> 一 two three 四五 </think><answer> six </answer>", "en") == pytest.approx(
        2 / 5
    )


@pytest.mark.parametrize(
    "text", ["", "<think> 2 + 3 = 5 </think> words", "<think></think> words", "<answer> words"]
)
def test_a_thought_without_words_shows_no_language(text):
    assert [consistency(text, language) for language in LANGUAGES] == [0.0] * len(LANGUAGES)
    assert not is_mixed(text)


def test_an_unknown_language_is_refused_by_name():
    with pytest.raises(ValueError, match="was tlh; may be en, zh"):
        consistency(ENGLISH, "tlh")


@pytest.mark.parametrize(
    ("text", "thought"),
    [
        ("<think> a </think> b", " a "),
        (" \n<think>a</think>", "a"),
        ("a <answer> b </answer>", "a "),
        ("just words", "just words"),
        ("<think> a <answer> b </answer>", "<think> a "),  # never closed
        (
            "<think> a <think> b </think> c </think> d <answer> e",
            "<think> a <think> b </think> c </think> d ",
        ),
        ("</think> a <think>", "</think> a <think>"),
        ("真的想法 <think> for show </think> <answer> 5", "真的想法 <think> for show </think> "),
        ("想 <answer> 5 <think> for show </think> </answer>", "想 "),
    ],
)
def test_where_the_thought_stands(text, thought):
    assert thought_of(text) == thought


def test_the_summary_is_what_follows_the_thought():
    assert summary_of("<think> a </think> So <answer> b </answer>") == "So  b"
    assert summary_of("a <answer> b </answer>") == "b"
    assert summary_of("a") == summary_of("<think> a </think>") == ""
    assert has_thought(ENGLISH)
    assert not has_thought("<think> </think> a")


def test_one_foreign_word_mixes():
    assert not is_mixed(ENGLISH)
    assert not is_mixed(CHINESE)
    assert is_mixed("<think> first 再 add </think>")
    assert is_mixed("<think> 先 and </think>")
    assert is_mixed("<think> first の add </think>")
    assert not is_mixed("<think> first $再$ add x </think> 答案")


@pytest.mark.parametrize(
    ("question", "language"),
    [
        ("What is 2 + 3?", "en"),
        ("小明有 3 个苹果, Tom 有 2 个", "zh"),
        ("Tom says 好 and leaves", "en"),
        ("4 + 4 =", "en"),
        ("Сколько будет 2 + 2?", "ru"),
    ],
)
def test_a_question_has_the_language_of_most_words(question, language):
    assert language_of(question) == language


PIECES = [
    "$",
    "$$",
    "\\(",
    "\\)",
    "\\[",
    "\\]",
    "`",
    "```\n",
    "~~~",
    "<think>",
    "</think>",
    "<a",
    "\\",
    "\n\n",
]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([*PIECES, "word ", "字", "а", "\u200b", "\u0301", "5 "]), max_size=40))
def test_shares_of_all_languages_make_at_most_one(pieces):
    text = "".join(pieces)
    shares = [consistency(text, language) for language in LANGUAGES]
    assert all(0.0 <= share <= 1.0 for share in shares)
    assert sum(shares) <= 1.0 + 1e-9
    if is_mixed(text):
        assert max(shares) < 1.0


@pytest.mark.parametrize(
    "piece", [*PIECES, "$a ", "\\[ x ", "<a<a", "a'", "a I ", "\u0301\u0316", "~~~x\n```\n"]
)
def test_no_mark_makes_the_work_grow_faster_than_the_text(piece, worked):
    once, twice = (worked(piece * n) for n in (2_000, 4_000))
    assert twice <= 2.2 * once + 1_000


@pytest.fixture
def worked(monkeypatch):
    """How many characters the search for what closes a mark may have gone through."""
    from r1mega.rewards import prose

    def measure(text):
        done = 0

        class Counting:
            def __init__(self, pattern):
                self.pattern = pattern

            def search(self, paragraph, at):
                nonlocal done
                found = self.pattern.search(paragraph, at)
                done += (found.end() if found else len(paragraph)) - at
                return found

        counting = {mark: Counting(pattern) for mark, pattern in prose._CLOSED_BY.items()}
        monkeypatch.setattr(prose, "_CLOSED_BY", counting)
        prose.prose(text)
        monkeypatch.undo()
        return done + len(text)

    return measure
