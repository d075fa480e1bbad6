from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalm_service.core.philox import Purpose, philox4x32, tag, words, words_at

KNOWN = json.loads((Path(__file__).parents[1] / "data" / "vectors.json").read_text())["words"]
U64 = st.integers(0, 2**64 - 1)
TAGS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000",
         "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
         "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
         "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
    ids=["zeros", "ones", "pi"],
)  # fmt: skip
def test_philox_gives_the_known_answers_of_random123(counter: str, key: str, answer: str) -> None:
    low, high = numbers(key)
    found = philox4x32(np.array(numbers(counter), np.uint64), (low, high))
    assert found.dtype == np.uint32
    assert found.tolist() == numbers(answer)


def test_philox_treats_every_counter_of_an_array_by_itself() -> None:
    counters = np.arange(24, dtype=np.uint64).reshape(4, 2, 3)
    found = philox4x32(counters, (5, 7))
    assert found.shape == (4, 2, 3)
    for place in np.ndindex(2, 3):
        alone = philox4x32(counters[(slice(None), *place)], (5, 7))
        assert found[(slice(None), *place)].tolist() == alone.tolist()


def test_words_are_the_known_ones() -> None:
    expected = {int(position): word for position, word in KNOWN["words"].items()}
    found = words(KNOWN["tag"], 200, seed=KNOWN["seed"], index=KNOWN["index"])
    assert {position: int(found[position]) for position in expected} == expected
    scattered = words_at(
        KNOWN["tag"], np.array(list(expected)), seed=KNOWN["seed"], index=KNOWN["index"]
    )
    assert scattered.tolist() == list(expected.values())


def test_the_known_words_have_a_tag_of_every_part() -> None:
    assert tag(Purpose.TOKEN, 2, 31) == 1 | 2 << 4 | 31 << 8 == KNOWN["tag"]


def test_tags_of_different_purposes_splits_and_elements_differ() -> None:
    elements = (0, 1, 2**24 - 1)
    found = {tag(purpose, split, i) for purpose in Purpose for split in range(3) for i in elements}
    assert len(found) == 4 * 3 * 3
    assert max(found) < 2**32


@settings(max_examples=50, deadline=None)
@given(tag=TAGS, seed=U64, index=U64, count=st.integers(1, 300))
def test_words_in_a_row_are_the_words_at_each_place(
    tag: int, seed: int, index: int, count: int
) -> None:
    row = words(tag, count, seed=seed, index=index)
    assert row.dtype == np.uint32
    assert row.shape == (count,)
    assert row.tolist() == words_at(tag, np.arange(count), seed=seed, index=index).tolist()


@settings(max_examples=50, deadline=None)
@given(tag=TAGS, seed=U64, index=U64, place=st.integers(0, 2**34 - 1))
def test_a_word_is_one_lane_of_one_block(tag: int, seed: int, index: int, place: int) -> None:
    lane, block = place % 64 // 16, place // 64 * 16 + place % 16
    counter = np.array([block, tag, index % 2**32, index >> 32], np.uint64)
    expected = philox4x32(counter, (seed % 2**32, seed >> 32))[lane]
    assert words_at(tag, np.array([place]), seed=seed, index=index).tolist() == [expected]


def test_words_at_keeps_the_shape_of_the_places() -> None:
    places = np.arange(6).reshape(2, 3)
    assert words_at(1, places, seed=2, index=3).shape == (2, 3)


def numbers(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]
