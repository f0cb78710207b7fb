"""The two parts of an answer's text that are judged apart: the thought, and what is said after it."""

from __future__ import annotations


def thought_of(text: str) -> str:
    """What stands in the <think> block; where no such block opens the text, all before <answer>.

    The block must be the only one, with nothing before it but white space: otherwise a thought in the
    wrong language could stand outside a block that is there for show. A text without <answer> either
    is thought from end to end.
    """
    block = _block(text)
    return text.partition("<answer>")[0] if block is None else block[0]


def summary_of(text: str) -> str:
    """What follows the <think> block, or else stands from <answer> on, without the answer's tags."""
    block = _block(text)
    rest = text.partition("<answer>")[2] if block is None else block[1]
    return rest.replace("<answer>", "").replace("</answer>", "").strip()


def has_thought(text: str) -> bool:
    """Whether a <think> block opens the text and is not blank."""
    block = _block(text)
    return block is not None and bool(block[0].strip())


def _block(text: str) -> tuple[str, str] | None:
    """The one <think> block that opens the text, and the rest; None if there is no such block."""
    if text.count("<think>") != 1 or text.count("</think>") != 1:
        return None
    before, _, rest = text.partition("<think>")
    thought, closed, after = rest.partition("</think>")
    return (thought, after) if closed and not before.strip() else None
