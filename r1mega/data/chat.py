"""What is asked and what is answered, written as text or as messages of a chat.

A conversation is what stands before an answer: a tuple of (role, text) that ends with the user's
turn. Text is one turn of the user. Each function adds to the row's faults what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

from r1mega.data.fields import Fields, Turn

Conversation = tuple[Turn, ...]

LANGUAGES = ("en", "zh")


def asked(fields: Fields, key: str) -> Conversation:
    """A conversation, from text or from messages."""
    if not isinstance(fields.values.get(key), list):
        return (("user", fields.text(key)),)
    turns = fields.turns(key)
    if turns and turns[-1][0] != "user":
        fields.wrong(key, f"must end with the user's turn, ends with the {turns[-1][0]}'s")
    return turns


def replied(fields: Fields, key: str) -> str:
    """An answer, from text or from one message of the assistant."""
    if not isinstance(fields.values.get(key), list):
        return fields.text(key)
    before = len(fields.faults)
    turns = fields.turns(key)
    if len(fields.faults) == before and [role for role, _ in turns] != ["assistant"]:
        fields.wrong(key, f"must be one turn of the assistant, is {len(turns)} turns")
    return turns[-1][1] if turns else ""


def answered(fields: Fields, key: str) -> tuple[Conversation, str]:
    """Messages whose last turn is the answer to those before it."""
    before = len(fields.faults)
    turns = fields.turns(key)
    if len(fields.faults) > before:
        return (), ""
    if turns[-1][0] != "assistant":
        fields.wrong(key, f"must end with the assistant's turn, ends with the {turns[-1][0]}'s")
    elif len(turns) == 1:
        fields.wrong(key, "holds an answer and no question")
    return turns[:-1], turns[-1][1]


def as_text(conversation: Sequence[Turn]) -> str:
    """All turns as one text, parted by blank lines; a single turn is its own text."""
    return "\n\n".join(text for _, text in conversation)
