"""A run's steps, its state, and what it skips, against plain arithmetic and the twin."""

from __future__ import annotations

import json
import tracemalloc
from itertools import islice
from typing import Any

import pytest

from metalm import InvalidArgument, LimitExceeded, MetaLMClient
from tests.forked import running

RUN: dict[str, Any] = {"L": 8, "seed": 5, "V": 16, "n": 3, "l": 4}


@pytest.mark.parametrize("prefetch_bytes", [0, 200, 2**20])
@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 1), (2, 3), (3, 4)])
def test_ranks_share_the_samples_without_skipped_ones(
    url: str, world_size: int, batch_size: int, prefetch_bytes: int
) -> None:
    skip: list[range | tuple[int, int]] = [(3, 5), range(20, 21), (40, 70)]
    wanted = [i for i in range(2, 80) if not (3 <= i < 5 or i == 20 or 40 <= i < 70)]
    steps: list[list[int]] = []
    with MetaLMClient(url) as client:
        for rank in range(world_size):
            batches = client.batches(
                **RUN, batch_size=batch_size, rank=rank, world_size=world_size,
                skip=skip, start=2, stop=80, prefetch_bytes=prefetch_bytes,
            )  # fmt: skip
            for step, batch in enumerate(batches):
                begin = (step * world_size + rank) * batch_size
                found = [int(i) for i in batch.indices]
                assert found == wanted[begin : begin + batch_size]
                for row, index in enumerate(found):
                    alone = MetaLMClient().sample(index, **RUN)
                    assert batch.x[row].tobytes() == alone.x.tobytes()
                assert batches.at(step).digest == batch.digest
                steps.append(found)
            assert batches.position == 80
    assert sorted(i for step in steps for i in step) == wanted


def test_a_run_restored_at_every_step_is_the_run(url: str) -> None:
    with MetaLMClient(url) as client:
        whole = [b.digest for b in client.batches(**RUN, batch_size=3, stop=30)]
        found = []
        state = client.batches(**RUN).state_dict()
        for _ in whole:
            again = client.batches(**RUN, batch_size=3, stop=30)
            again.load_state_dict(json.loads(json.dumps(state)))
            found.append(next(again).digest)
            state = again.state_dict()
            again.close()
        assert found == whole
        assert len(json.dumps(state)) <= 1024


def test_a_state_goes_on_with_other_ranks_and_batches(url: str) -> None:
    with MetaLMClient(url) as client:
        begun = client.batches(**RUN, batch_size=2, world_size=4, rank=3)
        for _ in islice(begun, 5):
            pass
        state = begun.state_dict()
        assert state["position"] == 40
        seen = []
        for rank in range(3):
            other = client.batches(**RUN, batch_size=5, world_size=3, rank=rank, prefetch_bytes=0)
            other.load_state_dict(state)
            seen += [int(i) for batch in islice(other, 2) for i in batch.indices]
        assert sorted(seen) == list(range(40, 70))


@pytest.mark.parametrize(
    ("other", "named"), [({"seed": 6}, "seed"), ({"split": "test"}, "split"), ({"V": 17}, "spec.V")]
)
def test_a_state_of_another_run_is_refused(other: dict[str, Any], named: str) -> None:
    client = MetaLMClient()
    state = client.batches(**{**RUN, **other}).state_dict()
    with pytest.raises(InvalidArgument, match=f"state {named} is"):
        client.batches(**RUN).load_state_dict(state)


def test_a_part_that_cannot_be_had_is_an_error_and_not_a_wait() -> None:
    """A step with skipped samples inside is asked for in parts: of 2 samples and of 6."""
    with running("--max-request-samples", "4") as service, MetaLMClient(service.http) as client:
        for prefetch_bytes in (0, 2**20):
            arguments: dict[str, Any] = {"prefetch_bytes": prefetch_bytes, "skip": [(2, 3)]}
            assert next(client.batches(**RUN, batch_size=4, **arguments)).size == 4
            with pytest.raises(LimitExceeded):
                next(client.batches(**RUN, batch_size=8, **arguments))


def test_wrong_ranks_and_ranges_are_refused() -> None:
    client = MetaLMClient()
    for wrong in ({"rank": 2, "world_size": 2}, {"world_size": 0}, {"skip": [(5, 3)]}):
        with pytest.raises(InvalidArgument):
            client.batches(**RUN, **wrong)
    with pytest.raises(InvalidArgument, match="step is 9"):
        client.batches(**RUN, stop=9, batch_size=1).at(9)


@pytest.mark.parametrize("prefetch_bytes", [0, 2**20])
def test_what_drop_last_leaves_counts_as_not_seen(url: str, prefetch_bytes: int) -> None:
    with MetaLMClient(url) as client:
        for rank in range(2):
            batches = client.batches(
                **RUN, batch_size=3, rank=rank, world_size=2, stop=20, skip=[(4, 6), (15, 16)],
                drop_last=True, prefetch_bytes=prefetch_bytes,
            )  # fmt: skip
            assert len(list(batches)) == 2
            assert batches.position == batches.position_at(9) == 14
        # 14, 16, 17, 18, 19: more ranks of smaller batches take them.
        rest = client.batches(**RUN, batch_size=5, stop=20, skip=[(15, 16)])
        rest.load_state_dict(batches.state_dict())
        assert [int(i) for batch in rest for i in batch.indices] == [14, 16, 17, 18, 19]


def test_a_step_costs_the_same_however_many_ranges_are_skipped() -> None:
    skip = [(3 * number + 1, 3 * number + 2) for number in range(50_000)]
    with MetaLMClient("inprocess:").batches(
        **RUN, batch_size=4, skip=skip, prefetch_bytes=0
    ) as batches:
        next(batches)
        tracemalloc.start()
        try:
            for _ in range(3):
                next(batches)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # A copy of the ranges alone is 400 KB.
    assert peak < 200_000
