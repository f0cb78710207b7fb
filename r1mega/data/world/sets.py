"""Three sets, one of which everything that may be asked or stated belongs to, by a hash of its own.

- `familiar`: what a model is pre-trained or fine-tuned on;
- `new`: what reinforcement learning asks, which nothing before it showed;
- `held_out`: what evaluation asks, and no training ever.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

FAMILIAR, NEW, HELD_OUT = "familiar", "new", "held_out"
SHARES: Mapping[str, float] = {HELD_OUT: 0.2, FAMILIAR: 0.4, NEW: 0.4}

TRAINING: Mapping[str, tuple[str, ...]] = {
    "familiar": (FAMILIAR,),
    "new": (NEW,),
    "any": (FAMILIAR, NEW),
}
"""By what a configuration may say: the sets that training questions may be of."""


def set_of(key: str) -> str:
    """The set that the thing of this key belongs to: always the same, for every stage."""
    digest = hashlib.sha256(key.encode()).digest()
    place = int.from_bytes(digest[:4], "big") / 2**32
    for name, share in SHARES.items():
        if place < share:
            return name
        place -= share
    return NEW
