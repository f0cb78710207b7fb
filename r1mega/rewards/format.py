"""The form of an answer: a thought in <think> tags, then an answer in <answer> tags, and nothing
else.

`score` judges the form alone, `answer_of` and `answer_any_format` only find the answer; whether it
is right is `accuracy`'s matter. All three are linear in the length of the text, whatever is in it.
"""

from __future__ import annotations

import re

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_TAIL = 2_000  # where an answer without tags is looked for: the last so many characters
_NUMBER = re.compile(r"[-+]?[0-9][0-9,]*(?:\.[0-9]+)?(?:/[0-9]+)?")
_BOXED = "\\boxed{"


def score(text: str) -> float:
    """1.0 for `<think>thought</think> <answer>answer</answer>`, else 0.0.

    Each tag stands exactly once, only white space is before, between and after the two blocks, and
    neither block is blank.
    """
    if any(text.count(tag) != 1 for tag in _TAGS):
        return 0.0
    before, rest = text.split("<think>")
    thought, closed, rest = rest.partition("</think>")
    between, opened, rest = rest.partition("<answer>")
    answer, ended, after = rest.partition("</answer>")
    blocks = closed and opened and ended and thought.strip() and answer.strip()
    return 1.0 if blocks and not (before + between + after).strip() else 0.0


def answer_of(text: str) -> str | None:
    """What stands in the one answer block, stripped; None if there is none, or more than one.

    The thought's tags play no part, so that accuracy and form are rewarded each for itself.
    """
    if text.count("<answer>") != 1 or text.count("</answer>") != 1:
        return None
    _, _, rest = text.partition("<answer>")
    answer, closed, _ = rest.partition("</answer>")
    return answer.strip() or None if closed else None


def answer_any_format(text: str) -> str | None:
    """The answer a lenient reader would find; None if there is nothing like one.

    It is what follows the last <answer>, closed or not; else the last \\boxed{...}; else the last
    number.
    """
    _, opened, rest = text.rpartition("<answer>")
    if opened:
        return rest.partition("</answer>")[0].strip() or None
    tail = text[-_TAIL:]
    numbers = _NUMBER.findall(tail)
    return _last_boxed(tail) or (numbers[-1].rstrip(",") if numbers else None)


def _last_boxed(text: str) -> str | None:
    """What the last \\boxed{ holds up to its own closing brace."""
    _, opened, rest = text.rpartition(_BOXED)
    depth = 1 if opened else 0
    for i, character in enumerate(rest if opened else ""):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return rest[:i].strip() or None
    return None
