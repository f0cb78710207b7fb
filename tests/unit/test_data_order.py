"""The order of epochs: each sample once an epoch, a function of seed and epoch alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from r1mega.data.order import epoch_order, minibatches, updates

COUNTS = st.integers(1, 60)


@given(COUNTS, COUNTS, st.integers(1, 4), st.integers(0, 9))
def test_every_epoch_takes_each_sample_once(samples: int, size: int, epochs: int, seed: int) -> None:
    batches = list(minibatches(samples, size, epochs=epochs, seed=seed))
    order = [i for batch in batches for i in batch]
    for epoch in range(epochs):
        of_epoch = order[epoch * samples : (epoch + 1) * samples]
        assert sorted(of_epoch) == list(range(samples))
        assert of_epoch == epoch_order(samples, epoch, seed)
    assert len(batches) == updates(samples, size, epochs)
    assert all(len(batch) == size for batch in batches[:-1])


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(epoch_order(30, epoch, seed)) for epoch in range(3) for seed in range(3)}
    assert len(orders) == 9
