from __future__ import annotations

import json
from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st

from metalm_service.core.poisson import LengthTable, length_table

KNOWN = json.loads((Path(__file__).parents[1] / "data" / "vectors.json").read_text())[
    "poisson_table"
]
MEANS = [5e-324, 1e-300, 1e-9, 2.3e-10, 0.1, 0.5, 1.0, 2.5, 3.0, 7.3, 64.0, 100.25, 1000.5, 4096.0]


@pytest.mark.parametrize("mean", KNOWN)
def test_tables_are_the_known_ones(mean: str) -> None:
    assert listed(length_table(float(mean))) == KNOWN[mean]


@pytest.mark.parametrize("mean", MEANS)
def test_tables_are_those_of_decimal_arithmetic(mean: float) -> None:
    assert listed(length_table(mean)) == by_decimals(mean)


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-12, 300))
def test_tables_of_any_mean_are_those_of_decimal_arithmetic(mean: float) -> None:
    assert listed(length_table(mean)) == by_decimals(mean)


def test_the_table_of_the_largest_mean_is_that_of_decimal_arithmetic() -> None:
    assert listed(length_table(2.0**20)) == by_decimals(2.0**20, digits=40)


@pytest.mark.parametrize("mean", [0.3, 64.0, 12345.6, 2.0**19 + 0.5, 2.0**20])
def test_tables_are_near_those_of_floating_point(mean: float) -> None:
    table = length_table(mean)
    k = table.zeros + np.arange(len(table.values))
    approximate = 2**32 * scipy.stats.poisson.cdf(k, mean)
    # scipy's own error; a slip by one element of the table would be far larger.
    np.testing.assert_allclose(table.values, approximate, rtol=1e-8, atol=2)


@pytest.mark.parametrize("mean", [*MEANS, 2.0**20])
def test_tables_are_sorted_and_stop_below_the_largest_word(mean: float) -> None:
    values = length_table(mean).values
    assert values.dtype == np.uint32
    assert np.all(values[1:] >= values[:-1])
    assert np.all(values > 0)
    assert np.all(values < 2**32 - 1)


@settings(max_examples=60, deadline=None)
@given(
    mean=st.sampled_from(MEANS[:-2]),
    words=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20),
)
def test_a_length_is_the_number_of_entries_not_above_the_word(
    mean: float, words: list[int]
) -> None:
    table = listed(length_table(mean))
    expected = [max(3, sum(entry <= word for entry in table)) for word in words]
    found = length_table(mean).lengths(np.array(words, np.uint32))
    assert found.dtype == np.int32
    assert found.tolist() == expected


@pytest.mark.parametrize("mean", [0.5, 3.0, 64.0])
def test_a_word_equal_to_an_entry_counts_it(mean: float) -> None:
    table = length_table(mean)
    entries = table.values.astype(np.int64)
    at, below = (table.lengths(words.astype(np.uint32)) for words in (entries, entries - 1))
    long = at > 3
    assert np.all(at[long] > below[long])


@pytest.mark.parametrize("mean", [*MEANS, 2.0**20])
def test_no_length_is_below_three_or_above_the_maximum(mean: float) -> None:
    table = length_table(mean)
    shortest, longest = table.lengths(np.array([0, 2**32 - 1], np.uint32)).tolist()
    assert shortest == max(3, table.zeros)
    assert longest == table.maximum


def test_a_tiny_mean_gives_the_minimum_length_always() -> None:
    table = length_table(5e-324)
    assert (table.zeros, len(table.values), table.maximum) == (0, 0, 3)


def listed(table: LengthTable) -> list[int]:
    return [0] * table.zeros + [int(entry) for entry in table.values]


def by_decimals(mean: float, digits: int = 80) -> list[int]:
    """F_0, F_1, ... from the series of Poisson's distribution, term by term."""
    table: list[int] = []
    with localcontext() as context:
        context.prec = digits
        term = total = (-Decimal(mean)).exp()
        while (entry := int(total * 2**32)) < 2**32 - 1:
            table.append(entry)
            term = term * Decimal(mean) / len(table)
            total += term
    return table
