"""What makes an answer unfit to learn from, though it be right: the filters of rejection sampling.

DeepSeek-R1 (arXiv 2501.12948) leaves out thoughts with mixed languages, long paragraphs and code
blocks. Beyond these: an answer without a thought or a summary, and one that repeats itself. Linear in
the length of the text.
"""

from __future__ import annotations

import re
from itertools import islice

from r1mega.rewards.language import is_mixed, words_by_language
from r1mega.rewards.prose import has_code_block
from r1mega.rewards.thought import has_thought, summary_of, thought_of

REASONS = (
    "no_thought",
    "no_summary",
    "mixed_language",
    "wrong_language",
    "code_in_thought",
    "run_on_paragraph",
    "repetition",
)
"""Every fault that an answer may have, in the order in which they are named."""

_HAN = re.compile(r"[\u3400-\u9fff\U00020000-\U0003ffff]")


def faults(
    text: str,
    language: str,
    *,
    paragraph_words: int = 300,
    paragraph_characters: int = 3_000,
    repeated_words: int = 16,
    repetitions: int = 4,
) -> list[str]:
    """The reasons, of REASONS, why an answer to a question in `language` is not readable.

    Args:
        paragraph_words, paragraph_characters: what a stretch of the thought without a line break may
            have at most.
        repeated_words, repetitions: so many words that come back this often, apart from each other,
            are a repetition. Han characters are words, and so is whatever stands between spaces.
    """
    thought = thought_of(text)
    words = words_by_language(thought)
    found = {
        "no_thought": not has_thought(text),
        "no_summary": not summary_of(text),
        "mixed_language": is_mixed(text),
        "wrong_language": len(words) == 1 and language not in words,
        "code_in_thought": has_code_block(thought),
        "run_on_paragraph": _runs_on(thought, paragraph_words, paragraph_characters),
        "repetition": _repeats(thought, repeated_words, repetitions),
    }
    return [reason for reason in REASONS if found[reason]]


def _runs_on(thought: str, most_words: int, most_characters: int) -> bool:
    return any(
        len(line) > most_characters or sum(words_by_language(line).values()) > most_words
        for line in thought.split("\n")
    )


def _repeats(thought: str, length: int, times: int) -> bool:
    """Whether any `length` words in a row stand at `times` places that do not overlap."""
    words = _tokens(thought)
    seen: dict[tuple[str, ...], tuple[int, int]] = {}  # how often, and where the last one ends
    for start, row in enumerate(zip(*(islice(words, i, None) for i in range(length)), strict=False)):
        count, end = seen.get(row, (0, 0))
        if start >= end:
            seen[row] = count + 1, start + length
            if count + 1 >= times:
                return True
    return False


def _tokens(text: str) -> list[str]:
    """Han characters one by one, everything else between spaces; without regard to case."""
    return _HAN.sub(r" \g<0> ", text).casefold().split()
