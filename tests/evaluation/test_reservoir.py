"""The reservoir: the rows with the lowest keys, as if all had been sorted, in whatever parts they came."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imbdet.evaluation.reservoir import Reservoir


def fill(size, keys, values, cuts):
    reservoir = Reservoir(size)
    for k, v in zip(np.split(keys, cuts), np.split(values, cuts), strict=True):
        reservoir.add(k, v)
    return reservoir


@given(st.integers(1, 30), st.integers(0, 200), st.lists(st.integers(0, 200), max_size=6), st.integers(0, 99))
def test_the_rows_with_the_lowest_keys_are_kept_in_their_order(size, count, cuts, seed):
    keys = np.random.default_rng(seed).permutation(count).astype(np.float32) / 256
    values = np.stack([np.arange(count), keys], 1).astype(np.float32)
    reservoir = fill(size, keys, values, sorted(cuts))
    chosen = np.sort(np.argsort(keys)[:size])
    np.testing.assert_array_equal(reservoir.values, values[chosen])
    np.testing.assert_array_equal(reservoir.values, values[chosen])  # asking changes nothing


def test_rows_may_come_after_the_values_were_asked_for():
    keys = np.random.default_rng(0).permutation(100).astype(np.float32) / 128
    reservoir = fill(10, keys[:60], keys[:60], [20])
    assert len(reservoir.values) == 10
    reservoir.add(keys[60:], keys[60:])
    np.testing.assert_array_equal(np.sort(reservoir.values), np.arange(10, dtype=np.float32) / 128)


def test_every_row_is_equally_likely_wherever_it_comes():
    """Of 2,000 draws of 5 in 20, each row is in a fourth, within five deviations."""
    counts = np.zeros(20)
    for seed in range(2000):
        keys = np.random.default_rng(seed).random(20, np.float32)
        counts[fill(5, keys, np.arange(20, dtype=np.float32), [3, 11]).values.astype(int)] += 1
    assert np.abs(counts / 2000 - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / 2000)


@pytest.mark.parametrize("shape", [(0,), (0, 3)])
def test_no_rows_are_no_values(shape):
    reservoir = Reservoir(4)
    reservoir.add(np.zeros(0, np.float32), np.zeros(shape, np.float32))
    assert reservoir.values.shape == shape
