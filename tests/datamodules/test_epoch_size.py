from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from refusals import refuses

from datamodules.loader import EpochBatches


def _epochs(batches: EpochBatches, number: int) -> list[list[tuple[int, bool]]]:
    epochs = []
    for epoch in range(number):
        batches.set_epoch(epoch)
        picks = list(batches)
        epochs.append([pair for pick in picks for pair in zip(pick.rows.tolist(), pick.flips.tolist(), strict=True)])
    return epochs


@given(st.integers(4, 30), st.integers(1, 4), st.integers(0, 60), st.integers(1, 5))
def test_each_row_comes_as_often_as_the_next(num_rows, batch_size, more, number):
    size = batch_size + more
    settings = {"seed": 3, "shuffle": True, "flip": True, "drop_last": True, "epoch_size": size}
    batches = EpochBatches(num_rows, batch_size, **settings)
    epochs = _epochs(batches, number)
    assert all(len(epoch) == size // batch_size * batch_size for epoch in epochs)
    counts = Counter(row for epoch in epochs for row, _ in epoch)
    often = [counts[row] for row in range(num_rows)]
    assert max(often) - min(often) <= 1


def test_two_ranks_share_the_sequence_of_one():
    settings = {"seed": 1, "shuffle": True, "flip": True, "drop_last": True, "epoch_size": 40}
    one = EpochBatches(12, 4, **settings)
    two = [EpochBatches(12, 2, rank=rank, world_size=2, **settings) for rank in range(2)]
    for batch, *halves in zip(one, *two, strict=True):
        np.testing.assert_array_equal(batch.rows, np.concatenate([half.rows for half in halves]))
        np.testing.assert_array_equal(batch.flips, np.concatenate([half.flips for half in halves]))


def test_an_epoch_goes_on_where_it_was_left():
    settings = {"seed": 1, "shuffle": True, "flip": True, "drop_last": True, "epoch_size": 30}
    whole = EpochBatches(7, 3, **settings)
    whole.set_epoch(2)
    rest = EpochBatches(7, 3, **settings)
    rest.epoch, rest.start = 2, 4
    for expected, picks in zip(list(whole)[4:], rest, strict=True):
        np.testing.assert_array_equal(expected.rows, picks.rows)
        np.testing.assert_array_equal(expected.flips, picks.flips)


def test_an_epoch_smaller_than_a_batch_is_refused():
    with refuses(ValueError, "data.epoch_size", 3, "batch of 4"):
        EpochBatches(20, 4, drop_last=True, epoch_size=3)
