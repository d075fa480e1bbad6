"""The same bytes and the same errors through every door."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest

from metalm import (
    CorruptBatch,
    InvalidArgument,
    LimitExceeded,
    MetaLMClient,
    MetaLMError,
    Spec,
    Unavailable,
    UnknownGenerator,
)
from metalm.transports import connect
from metalm_proto import wire
from metalm_proto.batch import Batch
from metalm_proto.fields import U64
from metalm_proto.spec import BatchRequest

SPECS: list[dict[str, Any]] = [
    {"L": 64},
    {"V": 300, "n": 5, "l": 32, "e": 0.05, "L": 100, "mask_ratio": 0.5, "split": "validation"},
    {"V": 70_000, "n": 3, "l": 4, "L": 65, "profile": "metagym", "split": "test"},
    {"n": 1, "e": 0, "L": 1},
    {"V": 2, "n": 2**24 - 1, "l": 0.001, "e": 0.999, "L": 200, "language": U64 - 1},
]


@pytest.fixture
def client(url: str) -> Iterator[MetaLMClient]:
    with MetaLMClient(url) as opened:
        yield opened


@pytest.fixture(scope="module")
def twin() -> MetaLMClient:
    return MetaLMClient("inprocess:")


def assert_same(one: Batch, other: Batch) -> None:
    assert (one.spec, one.seed, one.split, one.first) == (
        other.spec,
        other.seed,
        other.split,
        other.first,
    )
    assert one.digest == other.digest
    for mine, theirs in zip(one, other, strict=True):
        assert mine.dtype == theirs.dtype
        assert mine.shape == theirs.shape
        assert mine.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("parameters", SPECS, ids=str)
def test_every_door_gives_the_twins_bytes(
    client: MetaLMClient, twin: MetaLMClient, parameters: dict[str, Any]
) -> None:
    arguments = {"seed": U64 - 1, "batch_size": 3, "start": 2**32 - 2, "count": 3, **parameters}
    batches = list(client.batches(**arguments))
    for mine, theirs in zip(batches, twin.batches(**arguments), strict=True):
        assert_same(mine, theirs)
    assert [batch.first for batch in batches] == [2**32 - 2, 2**32 + 1, 2**32 + 4]


def test_a_batch_is_what_the_iterator_gives_there(client: MetaLMClient) -> None:
    iterated = next(islice(client.batches(L=50, seed=3, batch_size=4), 2, None))
    assert_same(client.batch(8, L=50, seed=3, batch_size=4), iterated)
    assert_same(client.sample(8, L=50, seed=3), client.batch(8, L=50, seed=3, batch_size=1))


def test_provenance_comes_through_every_door(client: MetaLMClient, twin: MetaLMClient) -> None:
    for language in (None, 7):
        arguments: dict[str, Any] = {
            "V": 300, "n": 4, "l": 5, "L": 70, "language": language, "seed": 1,
            "batch_size": 3, "provenance": True,
        }  # fmt: skip
        mine = client.batch(5, **arguments).provenance
        theirs = twin.batch(5, **arguments).provenance
        assert mine is not None
        assert theirs is not None
        for name in ("element", "offset", "exposure", "corruption"):
            assert np.array_equal(getattr(mine, name), getattr(theirs, name))
            assert getattr(mine, name).dtype == getattr(theirs, name).dtype
        assert len(mine.languages) == len(theirs.languages) == (3 if language is None else 1)
        for one, other in zip(mine.languages, theirs.languages, strict=True):
            assert np.array_equal(one.lengths, other.lengths)
            assert np.array_equal(one.tokens, other.tokens)


def test_arrays_may_be_written_to(client: MetaLMClient) -> None:
    for V in (64, 300, 70_000):
        batch = client.batch(V=V, L=33, seed=1, batch_size=2, provenance=True)
        assert batch.provenance is not None
        for array in (batch.x, batch.y, batch.provenance.element, batch.provenance.corruption):
            array[0, 0] += 1
            assert array.flags.aligned
            assert array.flags.c_contiguous


def test_the_last_sample_of_all_can_be_had(client: MetaLMClient, twin: MetaLMClient) -> None:
    arguments: dict[str, Any] = {"L": 10, "seed": U64 - 1, "batch_size": 2, "start": U64 - 3}
    batches = list(client.batches(**arguments))
    assert [batch.size for batch in batches] == [2, 1]
    assert_same(batches[1], twin.sample(U64 - 1, L=10, seed=U64 - 1))


def test_a_range_longer_than_a_window_has_no_seam(client: MetaLMClient, twin: MetaLMClient) -> None:
    # 2^28 bytes are a window: 33 batches of 8 MiB need a second one.
    arguments: dict[str, Any] = {"L": 2**17, "batch_size": 32, "seed": 1, "count": 33}
    digests = [batch.digest for batch in client.batches(**arguments)]
    assert digests == [batch.digest for batch in twin.batches(**arguments)]


def test_an_iterator_can_be_left_and_gone_on_with(client: MetaLMClient) -> None:
    batches = client.batches(L=40, seed=5, batch_size=2, stop=20)
    firsts = []
    for batch in batches:
        firsts.append(batch.first)
        batches.close()
    assert firsts == list(range(0, 20, 2))


def test_no_seed_draws_one_and_tells_it(client: MetaLMClient, twin: MetaLMClient) -> None:
    batches = client.batches(L=30, count=2)
    other = client.batches(L=30, count=2)
    assert batches.seed != other.seed
    for mine, theirs in zip(batches, twin.batches(L=30, count=2, seed=batches.seed), strict=True):
        assert_same(mine, theirs)
    assert client.sample(L=30).seed != client.sample(L=30).seed


def error_of(call: Callable[[], object]) -> tuple[type, str, dict[str, str]]:
    with pytest.raises(MetaLMError) as caught:
        call()
    return type(caught.value), str(caught.value), caught.value.details()


BAD: list[dict[str, Any]] = [
    {"V": 1},
    {"V": 2**31 - 2},
    {"V": True},
    {"V": "5"},
    {"V": 5.0},
    {"n": 0},
    {"n": 2**24},
    {"n": 1, "profile": "metagym"},
    {"l": 0},
    {"l": float("nan")},
    {"l": 2**20 + 1},
    {"e": 1},
    {"e": float("inf")},
    {"e": -(10**400)},
    {"L": 0},
    {"L": 2**34 + 1},
    {"mask_ratio": 1.5},
    {"profile": "other"},
    {"language": -1},
    {"language": U64},
    {"seed": -1},
    {"seed": U64},
    {"split": "dev"},
    {"batch_size": 0},
    {"batch_size": 2**31},
    {"start": -1},
    {"start": U64},
    {"start": 5, "stop": 4},
    {"stop": U64 + 1},
    {"count": -1},
    {"count": 1, "stop": 1},
]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_every_door_refuses_with_the_same_words(
    client: MetaLMClient, twin: MetaLMClient, bad: dict[str, Any]
) -> None:
    arguments = {"seed": 1, "L": 10, **bad}
    found = error_of(lambda: next(client.batches(**arguments)))
    assert found == error_of(lambda: next(twin.batches(**arguments)))
    assert found[0] is InvalidArgument
    assert all(found[2].values())


def test_servers_refuse_the_same_that_the_client_refuses(server_url: str) -> None:
    """Past the client's own checks: the request is altered after it was validated."""
    transport = connect(server_url, timeout_s=10)
    request = BatchRequest(spec=Spec(L=10), seed=1, stop=4)
    bad_spec = Spec(L=10)
    object.__setattr__(bad_spec, "V", 1)
    object.__setattr__(request, "spec", bad_spec)
    expected = error_of(lambda: Spec(V=1))
    assert error_of(lambda: next(transport.batches(request))) == expected
    request = BatchRequest(spec=Spec(L=10), seed=1, stop=4)
    object.__setattr__(request, "generator", "metalm-2")
    kind, message, details = error_of(lambda: next(transport.batches(request)))
    assert kind is UnknownGenerator
    assert "metalm-2" in details["value"]
    assert "metalm-1" in message
    transport.close()


@pytest.mark.parametrize(
    "arguments",
    [{"L": 2**34}, {"L": 2**20, "batch_size": 64}, {"batch_size": 2**21}],
    ids=str,
)
def test_too_much_is_refused_the_same_way_by_both_doors(
    server_url: str, http_url: str, arguments: dict[str, Any]
) -> None:
    with MetaLMClient(server_url) as client, MetaLMClient(http_url) as other:
        found = error_of(lambda: client.batch(seed=1, **arguments))
        assert found == error_of(lambda: other.batch(seed=1, **arguments))
        assert found[0] is LimitExceeded


def test_describe_agrees(client: MetaLMClient, twin: MetaLMClient) -> None:
    spec = Spec(V=300)
    mine, theirs = client.describe(spec), twin.describe(spec)
    assert (mine.generators, mine.spec) == (theirs.generators, theirs.spec)
    assert mine.version == theirs.version
    assert mine.generators == ("metalm-1",)


def test_both_doors_say_how_far_a_spec_may_go(server_url: str, http_url: str) -> None:
    with MetaLMClient(server_url) as client, MetaLMClient(http_url) as other:
        spec = Spec(V=70_000, n=3)
        reach = client.describe(spec).reach
        assert reach is not None
        assert reach == other.describe(spec).reach
        assert client.describe().reach is None
        client.sample(spec=replace(spec, n=reach.n), seed=1, provenance=True)
        found = error_of(
            lambda: client.sample(spec=replace(spec, n=reach.n + 1), seed=1, provenance=True)
        )
        assert found[0] is LimitExceeded


def test_closing_twice_is_fine_and_ends_everything(url: str) -> None:
    client = MetaLMClient(url)
    batches = client.batches(L=5, seed=1)
    next(batches)
    client.close()
    client.close()
    batches.close()
    for call in (lambda: client.sample(L=5), client.describe, lambda: next(batches)):
        with pytest.raises(RuntimeError, match="closed"):
            call()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9", "grpc://127.0.0.1:9", "http://nobody.invalid:9"]
)
def test_nobody_there_is_unavailable(url: str) -> None:
    expected = pytest.raises(Unavailable, match=url.partition("//")[2])
    with MetaLMClient(url, timeout_s=0.2) as client, expected:
        client.sample(L=5)


def test_wrong_names_are_told_with_the_right_ones(client: MetaLMClient) -> None:
    calls: list[Any] = [client.sample, client.batch, client.batches]
    for call in calls:
        with pytest.raises(TypeError, match=r"vocab_size.*V, n, l, e, L"):
            call(vocab_size=5)


def test_altered_provenance_is_found(url: str) -> None:
    with MetaLMClient(url) as client:
        batch = client.sample(L=50, seed=1, provenance=True)
    data = bytearray(b"".join(wire.encode_batch(batch)))
    assert batch.provenance is not None
    position = data.index(batch.provenance.element.tobytes())
    data[position] ^= 1
    with pytest.raises(CorruptBatch, match="provenance"):
        wire.decode_batch(bytes(data))
