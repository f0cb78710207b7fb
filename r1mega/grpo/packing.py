"""Samples laid out in rows: a few long micro-batches for every data-parallel rank, equally loaded.

Sort by length, spread over the ranks, best-fit into rows of fixed length: DeepSeek-R1's training
module (arXiv 2501.12948, its account of the infrastructure). What `pack` guarantees:

1. Every sample is in exactly one row of one rank.
2. A row's tokens, padded up to `multiple_of`, are at most `tokens_per_microbatch`.
3. Every rank has the same number of rows, at least one and a multiple of `rows_multiple_of`: ranks meet
   in collectives once a row, and an interleaved pipeline takes rows by the stage.
4. Two ranks' loads differ by at most the longest sample.
5. No row too many: but for what `rows_multiple_of` adds, on some rank any two rows hold more than fits in
   one (or it has just one row).
6. A row is empty only on a rank that has fewer samples than rows; empty rows come last, and the
   caller pads them with tokens of weight 0.
7. On each rank the rows are ordered from most to fewest tokens, so that ranks run alike rows
   together.
8. The same input gives the same rows.

Refuses a sample that no row can hold, naming it, and lengths or sizes below 1.
"""

import heapq
from bisect import bisect_left, insort
from collections.abc import Sequence

Row = list[int]
"""Indices of the samples that share a micro-batch."""


def pack(
    lengths: Sequence[int],
    tokens_per_microbatch: int,
    ranks: int,
    multiple_of: int = 1,
    rows_multiple_of: int = 1,
) -> list[list[Row]]:
    """Lay out samples of `lengths` tokens (prompt, answer, own padding) for `ranks` data-parallel ranks.

    Returns, for each rank, its micro-batches as lists of sample indices. A row is padded to
    `multiple_of` tokens (what sequence or context parallelism divides); samples in it are not.
    A rank's rows are a multiple of `rows_multiple_of`.

    Raises ValueError if a sample is longer than a row can be, or an argument is below 1.
    """
    if rows_multiple_of < 1:
        raise ValueError(f"rows_multiple_of={rows_multiple_of} must be at least 1")
    capacity = _capacity(lengths, tokens_per_microbatch, ranks, multiple_of)
    longest_first = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    packed = [_best_fit(share, lengths, capacity) for share in _spread(longest_first, lengths, ranks)]
    rows = max(1, *(len(rank) for rank in packed))
    rows += -rows % rows_multiple_of
    return [_open_rows(rank, rows, lengths) for rank in packed]


def _capacity(lengths: Sequence[int], tokens: int, ranks: int, multiple_of: int) -> int:
    """Tokens a row may hold so that it still fits once it is padded."""
    if min(tokens, ranks, multiple_of) < 1:
        raise ValueError(
            f"tokens_per_microbatch={tokens}, ranks={ranks}, multiple_of={multiple_of}: "
            "each must be at least 1"
        )
    capacity = tokens // multiple_of * multiple_of
    for index, length in enumerate(lengths):
        if not 1 <= length <= capacity:
            raise ValueError(
                f"sample {index} has {length} tokens; a row of tokens_per_microbatch={tokens}, "
                f"a multiple of {multiple_of}, holds 1 to {capacity}"
            )
    return capacity


def _spread(longest_first: Sequence[int], lengths: Sequence[int], ranks: int) -> list[Row]:
    """Give each sample, longest first, to the rank with the fewest tokens so far."""
    shares: list[Row] = [[] for _ in range(ranks)]
    lightest = [(0, rank) for rank in range(ranks)]
    for index in longest_first:
        load, rank = lightest[0]
        shares[rank].append(index)
        heapq.heapreplace(lightest, (load + lengths[index], rank))
    return shares


def _best_fit(longest_first: Sequence[int], lengths: Sequence[int], capacity: int) -> list[Row]:
    """Put each sample, longest first, into the fullest row that still has room for it."""
    rows: list[Row] = []
    by_room: list[tuple[int, int]] = []  # (room left, row), least room first
    for index in longest_first:
        place = bisect_left(by_room, (lengths[index], 0))
        if place == len(by_room):
            rows.append([])
            room, row = capacity, len(rows) - 1
        else:
            room, row = by_room.pop(place)
        rows[row].append(index)
        insort(by_room, (room - lengths[index], row))
    return rows


def _open_rows(rows: list[Row], count: int, lengths: Sequence[int]) -> list[Row]:
    """Split the rank's longest rows until it has `count`, then order them by their tokens."""

    def tokens(row: Row) -> int:
        return sum(lengths[index] for index in row)

    rows = list(rows)
    while len(rows) < count and any(len(row) > 1 for row in rows):
        longest = max((row for row in rows if len(row) > 1), key=tokens)
        rows.remove(longest)
        rows += _spread(longest, lengths, 2)
    rows += [[] for _ in range(count - len(rows))]
    return sorted(rows, key=tokens, reverse=True)
