"""A rollout's samples cut at random into the mini-batches of its updates.

Guarantees: mini-batches of equal size, every sample in exactly one, the same cut for the same seed
and rollout on every rank, machine and Python. Refuses a number of samples that does not divide.
"""

import random


def split(samples: int, updates: int, *, seed: int, rollout: int) -> list[list[int]]:
    """Cut samples 0..samples-1 of one rollout at random into `updates` equal mini-batches.

    One inner epoch, as DeepSeek-R1 does it (8,192 samples into 16). Answers to one prompt fall into
    different mini-batches; their advantages were fixed over the whole group before.

    Raises ValueError unless both are at least 1 and `updates` divides `samples`.
    """
    if min(samples, updates) < 1 or samples % updates:
        raise ValueError(f"{samples} samples cannot be cut into {updates} equal mini-batches")
    # Of Python's generator only random() is promised to repeat in later versions, shuffle() is not.
    draw = random.Random(f"{seed}/{rollout}").random
    order = sorted(range(samples), key=lambda _: draw())
    size = samples // updates
    return [order[start : start + size] for start in range(0, samples, size)]
