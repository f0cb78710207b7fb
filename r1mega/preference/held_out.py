"""Which rows are learnt from and which are set apart.

Invariants: the cut depends on its arguments alone, on every rank, machine and Python; rows of one prompt are
all learnt from or all set apart, since a model that has met a prompt is no longer new to it.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence


def set_apart(prompts: Sequence[str], share: float, *, seed: int) -> tuple[list[int], list[int]]:
    """The rows to learn from and those held out, each in the order given; `prompts[i]` is row i's.

    Prompts are held out, drawn at random, until their rows are at least this share of all.

    Raises ValueError if fewer than two prompts are held out (an interval needs two) or none is left.
    """
    rows_of = defaultdict(list)
    for row, prompt in enumerate(prompts):
        rows_of[prompt].append(row)
    held_out: list[int] = []
    # Of Python's generator only random() is promised to repeat in later versions, shuffle() is not.
    draw = random.Random(f"held out:{seed}").random
    taken = 0
    for group in sorted(rows_of.values(), key=lambda _: draw()):
        if len(held_out) >= share * len(prompts):
            break
        held_out += group
        taken += 1
    if taken < 2 or taken == len(rows_of):
        raise ValueError(
            f"a share of {share:g} sets {taken} of {len(rows_of)} distinct prompts apart; it must be at least"
            " 2 of them, and leave some to learn from"
        )
    apart = set(held_out)
    return [row for row in range(len(prompts)) if row not in apart], sorted(apart)
