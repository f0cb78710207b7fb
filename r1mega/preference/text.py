"""What a reward model reads of an answer.

As in DeepSeek-R1 (arXiv 2501.12948): helpfulness is judged on the final summary only, so that the reward
does not meddle with the thought; harmlessness on the whole answer, thought included.
"""

from __future__ import annotations

from enum import StrEnum


class Reads(StrEnum):
    """The part of an answer that is read."""

    summary = "summary"
    whole = "whole"


def part_read(answer: str, reads: Reads) -> str:
    """The part of the answer that is put to the reward model, after the prompt."""
    return summary_of(answer) if reads is Reads.summary else answer.strip()


def summary_of(answer: str) -> str:
    """What a user is shown: all that follows the first `</think>`, without the answer's tags.

    An answer that opens a thought and never ends it has no summary: "". One without either tag is all
    summary. After the *first* tag, so that an answer cannot hide a part between two of them.
    """
    thought, closed, summary = answer.partition("</think>")
    if not closed:
        summary = "" if "<think>" in thought else answer
    return summary.replace("<answer>", "").replace("</answer>", "").strip()
