"""A hint for a misspelt name, for messages that say what a key may be."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

_FEW = 20


def nearest(name: str, known: Sequence[str]) -> str:
    """The closest known name, or all of them when they are few."""
    close = get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"it may be {', '.join(sorted(known))}" if len(known) <= _FEW else "none is like it"
