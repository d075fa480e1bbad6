"""The checker finds what it is there to find: a bug planted in a stream, of each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest

from metalm import Batch, MetaLMClient
from metalm_proto.batch import digest_of
from tests.chaos.checker import BATCH_SIZE, SPEC, Given, findings

COUNT = 40
STREAM: dict[str, Any] = {**SPEC, "seed": 3, "batch_size": BATCH_SIZE}
TWIN = MetaLMClient("inprocess:")


def true(start: int = 0, **changed: Any) -> Iterator[Batch]:
    """The run from a sample on, to its end."""
    stop = COUNT * BATCH_SIZE
    return TWIN.batches(**(STREAM | changed), start=start, stop=stop, prefetch_bytes=0)


def until(step: int) -> Iterator[Batch]:
    return islice(true(), step)


def drops_one() -> Iterator[Batch]:
    return (batch for batch in true() if batch.first != 7 * BATCH_SIZE)


def drops_the_last() -> Iterator[Batch]:
    return until(COUNT - 1)


def doubles_one() -> Iterator[Batch]:
    for batch in true():
        yield from [batch] * (2 if batch.first == 7 * BATCH_SIZE else 1)


def swaps_two() -> Iterator[Batch]:
    batches = list(true())
    batches[7], batches[8] = batches[8], batches[7]
    yield from batches


def alters_a_byte_and_signs_it() -> Iterator[Batch]:
    for batch in true():
        if batch.first == 7 * BATCH_SIZE:
            batch.y[3, 5] ^= 1
            yield replace(batch, digest=digest_of(batch.x, batch.y))
        else:
            yield batch


def resumes_one_sample_late() -> Iterator[Batch]:
    """After a failover: position + 1."""
    yield from until(7)
    yield from true(7 * BATCH_SIZE + 1)


def resumes_one_batch_early() -> Iterator[Batch]:
    yield from until(7)
    yield from true(6 * BATCH_SIZE)


def skips_on_reconnect() -> Iterator[Batch]:
    """What was on its way when the connection broke counts as received."""
    yield from until(7)
    yield from true(11 * BATCH_SIZE)


def gives_another_seeds_batch() -> Iterator[Batch]:
    for batch, foreign in zip(true(), true(seed=4), strict=True):
        yield foreign if batch.first == 7 * BATCH_SIZE else batch


def gives_another_seeds_batch_under_a_false_name() -> Iterator[Batch]:
    for batch in gives_another_seeds_batch():
        yield replace(batch, seed=STREAM["seed"])


def found_in(batches: Iterator[Batch]) -> dict[str, tuple[int, int]]:
    found = findings(map(Given.of, batches), count=COUNT, stream=STREAM)
    return {finding.kind: (finding.first // BATCH_SIZE, finding.count) for finding in found}


def test_a_true_stream_has_no_findings() -> None:
    assert found_in(true()) == {}


@pytest.mark.parametrize(
    ("bug", "found"),
    [
        (drops_one, {"lost": (7, 1)}),
        (drops_the_last, {"lost": (COUNT - 1, 1)}),
        (doubles_one, {"doubled": (7, 1)}),
        (swaps_two, {"reordered": (7, 1)}),
        (alters_a_byte_and_signs_it, {"altered": (7, 1)}),
        (resumes_one_sample_late, {"misaligned": (7, 33), "lost": (7, 33)}),
        (resumes_one_batch_early, {"doubled": (6, 1)}),
        (skips_on_reconnect, {"lost": (7, 4)}),
        (gives_another_seeds_batch, {"foreign": (7, 1)}),
        (gives_another_seeds_batch_under_a_false_name, {"altered": (7, 1)}),
    ],
)
def test_a_planted_bug_is_found_and_named(
    bug: Callable[[], Iterator[Batch]], found: dict[str, tuple[int, int]]
) -> None:
    assert found_in(bug()) == found
