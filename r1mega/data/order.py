"""The order in which samples are learnt: epochs, each in an order of its own, cut into mini-batches.

Invariants: every epoch takes each sample once; the order is a function of (seed, epoch) and the number of
samples, so that a resumed run goes on as the undisturbed one; only the last mini-batch may be short.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import chain, islice


def minibatches(samples: int, size: int, *, epochs: int, seed: int) -> Iterator[list[int]]:
    """Indices of the samples of each update; a mini-batch may reach from one epoch into the next."""
    stream = chain.from_iterable(epoch_order(samples, epoch, seed) for epoch in range(epochs))
    while batch := list(islice(stream, size)):
        yield batch


def epoch_order(samples: int, epoch: int, seed: int) -> list[int]:
    """All samples in the order of that epoch."""
    return random.Random(f"order:{seed}:{epoch}").sample(range(samples), samples)


def updates(samples: int, size: int, epochs: int) -> int:
    """How many mini-batches there are in all."""
    return -(-samples * epochs // size)
