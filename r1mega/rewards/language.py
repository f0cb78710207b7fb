"""Which languages a thought is in, and the reward for keeping to one (DeepSeek-R1, arXiv 2501.12948).

The reward is the share of words that are of the target language, over the thought's prose: digits,
formulas, code and tags do not count. A word is one Han character, or one run of letters of another
script. A single Latin or Greek letter is a symbol (x, B, π) and no word, save "a" and "I" beside
another word.

A language is known by its script alone, so French reads as English; classifiers by vocabulary call
plain English with some Chinese in it Chinese. Words of a script that no language here has count as
foreign to all. Everything is linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from r1mega.rewards.prose import prose
from r1mega.rewards.thought import thought_of

_SCRIPTS = {
    # With full-width, mathematical and circled letters: they read as Latin, whatever their code.
    "en": "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02af\u1e00-\u1eff\u2c60-\u2c7f\ua720-\ua7ff\ufb00-\ufb06"
    "\uff21-\uff3a\uff41-\uff5a\u24b6-\u24e9\U0001d400-\U0001d6a5\U0001f130-\U0001f189",
    "zh": "\u2e80-\u2fdf\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",
    "ru": "\u0400-\u052f\u1c80-\u1c8f",
}
"""Letters of each language's script, as the inside of a character class."""
_FOREIGN = "foreign"
_GREEK = "\u0370-\u03ff\u1f00-\u1fff\u00b5"
_NO_LETTERS = "\\W\\d_\u00aa\u00ba\u2070-\u214f"  # nor are superscripts and signs such as ℝ

LANGUAGES = tuple(_SCRIPTS)
"""Languages that a question can be in."""

_LATIN = _SCRIPTS["en"]
_ALONE = "(?<![{0}'’])(?:{1})(?![{0}'’])"
_WORDS: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        "en": re.compile(
            f"[{_LATIN}]{{2,}}(?:['’][{_LATIN}]+)*|[{_LATIN}](?:['’][{_LATIN}]+)+|"
            + _ALONE.format(_LATIN, f"[aAI](?= [{_LATIN}])|(?<=[{_LATIN}] )[aAI]")
        ),
        "zh": re.compile(f"[{_SCRIPTS['zh']}]"),
        "ru": re.compile(f"[{_SCRIPTS['ru']}]+"),
        _FOREIGN: re.compile(
            f"(?:(?![{''.join(_SCRIPTS.values())}{_GREEK}])[^{_NO_LETTERS}])+|[{_GREEK}]{{2,}}"
        ),
    }
)
"""One word of each language."""


def consistency(text: str, language: str) -> float:
    """Share, 0 to 1, of the thought's words that are of `language`; 0.0 for a thought without words.

    Raises ValueError for a language that is not in LANGUAGES.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language: was {language}; may be {', '.join(LANGUAGES)}")
    words = _words_of_thought(text)
    return words.get(language, 0) / sum(words.values()) if words else 0.0


def is_mixed(text: str) -> bool:
    """Whether the thought has words of more than one language; one foreign word is enough."""
    return len(_words_of_thought(text)) > 1


def language_of(question: str) -> str:
    """The language that most of the words are of, the first of LANGUAGES if none has more."""
    words = words_by_language(question)
    return max(LANGUAGES, key=lambda language: words.get(language, 0))


def words_by_language(text: str) -> dict[str, int]:
    """How many words of each language there are in the prose of the whole text, where there are any."""
    plain = prose(text)
    counts = {language: _count(language, plain) for language in _WORDS}
    return {language: count for language, count in counts.items() if count}


def _count(language: str, text: str) -> int:
    if text.isascii() and language != "en":
        return 0
    words = _WORDS[language].findall(text)
    if language == _FOREIGN:  # numerals such as ½ and ② match too
        return sum(any(map(str.isalpha, word)) for word in words)
    return len(words)


@lru_cache(maxsize=4)  # the components of one answer are computed one after another
def _words_of_thought(text: str) -> Mapping[str, int]:
    return MappingProxyType(words_by_language(thought_of(text)))
