from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from metalm_proto import messages, protobuf, wire
from metalm_proto.batch import Batch, Language, Provenance, digest_of
from metalm_proto.description import Description, Limits, Reach
from metalm_proto.errors import CorruptBatch, InvalidArgument, UnknownGenerator
from metalm_proto.spec import BatchRequest, Spec, Split
from metalm_proto.v1 import metalm_pb2 as pb
from tests.proto.strategies import U64, requests, specs


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Batches of random arrays; no generator is asked."""
    spec, size = draw(specs(longest=40)), draw(st.integers(1, 4))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))

    def tokens(*shape: int) -> NDArray[Any]:
        return random.integers(0, spec.vocabulary, shape, dtype=np.int64).astype(spec.dtype)

    def numbers() -> NDArray[np.int32]:
        return random.integers(0, 2**31, (size, spec.L), dtype=np.int32)

    def language() -> Language:
        lengths = random.integers(3, 9, 5, dtype=np.int32)
        return Language(lengths, tokens(int(lengths.sum())))

    provenance = None
    if draw(st.booleans()):
        provenance = Provenance(
            element=numbers(),
            offset=numbers(),
            exposure=numbers(),
            corruption=random.integers(0, 3, (size, spec.L), dtype=np.uint8),
            languages=tuple(language() for _ in range(size if spec.language is None else 1)),
        )
    x, y = tokens(size, spec.L), tokens(size, spec.L)
    return Batch(
        spec=spec,
        seed=draw(U64),
        split=draw(st.sampled_from(Split)),
        first=draw(U64),
        x=x,
        y=y,
        digest=digest_of(x, y),
        provenance=provenance,
    )


@given(specs())
def test_a_spec_comes_back_from_its_message(spec: Spec) -> None:
    message = pb.Spec.FromString(messages.spec_to_message(spec).SerializeToString())
    assert messages.spec_from_message(message) == spec


def test_an_empty_spec_is_the_default() -> None:
    assert messages.spec_from_message(pb.Spec()) == Spec()


def test_a_spec_is_sent_with_every_default_filled_in() -> None:
    message = messages.spec_to_message(Spec())
    assert {field.name for field, _ in message.ListFields()} == {
        *("vocab_size", "elements_number", "elements_length", "error_rate"),
        *("sequence_length", "mask_ratio", "profile"),
    }


@pytest.mark.parametrize(
    ("message", "label", "value"),
    [
        (pb.Spec(vocab_size=0), "vocab_size (V)", "0"),
        (pb.Spec(vocab_size=2**63 - 1), "vocab_size (V)", str(2**63 - 1)),
        (pb.Spec(vocab_size=2**32 + 64), "vocab_size (V)", str(2**32 + 64)),
        (pb.Spec(elements_number=-1), "elements_number (n)", "-1"),
        (pb.Spec(elements_length=0), "elements_length (l)", "0.0"),
        (pb.Spec(elements_length=float("nan")), "elements_length (l)", "nan"),
        (pb.Spec(error_rate=float("inf")), "error_rate (e)", "inf"),
        (pb.Spec(sequence_length=-(2**63)), "sequence_length (L)", str(-(2**63))),
        (pb.Spec(mask_ratio=1.5), "mask_ratio", "1.5"),
        (pb.Spec.FromString(b"\x38\x07"), "profile", "7"),
    ],
)
def test_a_wrong_field_of_a_message_is_refused_by_name(
    message: pb.Spec, label: str, value: str
) -> None:
    for asked in (pb.SampleRequest(spec=message), pb.StreamBatchesRequest(spec=message, samples=1)):
        with pytest.raises(InvalidArgument) as caught:
            if isinstance(asked, pb.SampleRequest):
                messages.sample_request_from_message(asked)
            else:
                messages.stream_request_from_message(asked)
        assert (caught.value.field, caught.value.value) == (label, value)


@given(
    spec=specs(),
    seed=U64,
    first=U64,
    size=st.integers(1, 2**31 - 1),
    split=st.sampled_from(Split),
    provenance=st.booleans(),
)
def test_a_request_for_a_sample_comes_back_from_its_message(
    spec: Spec, seed: int, first: int, size: int, split: Split, provenance: bool
) -> None:
    request = BatchRequest.single(
        spec=spec,
        seed=seed,
        first=first,
        size=min(size, 2**64 - first),
        split=split,
        provenance=provenance,
    )
    stream = messages.stream_request_to_message(request)
    message = pb.SampleRequest(
        first=first,
        size=request.samples,
        spec=stream.spec,
        seed=stream.seed,
        split=stream.split,
        generator=stream.generator,
        provenance=stream.provenance,
    )
    assert messages.sample_request_from_message(message) == request


@given(requests(most=2**63 - 1))
def test_a_request_for_a_stream_comes_back_from_its_message(request: BatchRequest) -> None:
    data = messages.stream_request_to_message(request).SerializeToString()
    assert messages.stream_request_from_message(pb.StreamBatchesRequest.FromString(data)) == request


def test_a_request_of_more_samples_than_the_message_holds_is_an_invalid_argument() -> None:
    request = BatchRequest(spec=Spec(), seed=0, stop=2**64)
    with pytest.raises(InvalidArgument):
        messages.stream_request_to_message(request)


def test_an_empty_request_is_the_default_sample_of_a_fresh_seed() -> None:
    one, other = (messages.sample_request_from_message(pb.SampleRequest()) for _ in range(2))
    assert 0 <= one.seed < 2**53
    assert one.seed != other.seed
    assert one == BatchRequest.single(spec=Spec(), seed=one.seed, first=0, size=1)


def test_a_seed_of_zero_is_a_seed() -> None:
    assert messages.sample_request_from_message(pb.SampleRequest(seed=0)).seed == 0


def test_a_stream_is_of_32_samples_a_batch_unless_it_says_otherwise() -> None:
    message = pb.StreamBatchesRequest(seed=1, samples=100)
    expected = BatchRequest(spec=Spec(), seed=1, stop=100, batch_size=32)
    assert messages.stream_request_from_message(message) == expected


@pytest.mark.parametrize("samples", [0, -1, -(2**63)])
def test_a_stream_has_samples(samples: int) -> None:
    with pytest.raises(InvalidArgument, match="samples"):
        messages.stream_request_from_message(pb.StreamBatchesRequest(samples=samples))


@pytest.mark.parametrize(
    "message",
    [
        pb.SampleRequest(size=0),
        pb.SampleRequest(size=-1),
        pb.SampleRequest(size=2**31),
        pb.SampleRequest(first=2**64 - 1, size=2),
        pb.SampleRequest.FromString(b"\x18\x09"),
    ],
    ids=str,
)
def test_a_wrong_request_for_a_sample_is_refused(message: pb.SampleRequest) -> None:
    with pytest.raises(InvalidArgument):
        messages.sample_request_from_message(message)


@pytest.mark.parametrize(
    "message",
    [
        pb.StreamBatchesRequest(samples=2, start=2**64 - 1),
        pb.StreamBatchesRequest(samples=2, batch_size=0),
        pb.StreamBatchesRequest(samples=2, batch_size=2**31),
        pb.StreamBatchesRequest.FromString(b"\x28\x02\x18\x09"),
    ],
    ids=str,
)
def test_a_wrong_request_for_a_stream_is_refused(message: pb.StreamBatchesRequest) -> None:
    with pytest.raises(InvalidArgument):
        messages.stream_request_from_message(message)


def test_another_generator_is_unknown() -> None:
    with pytest.raises(UnknownGenerator):
        messages.sample_request_from_message(pb.SampleRequest(generator="metalm-2"))
    with pytest.raises(UnknownGenerator):
        messages.stream_request_from_message(
            pb.StreamBatchesRequest(generator="metalm-2", samples=1)
        )


@given(
    limits=st.none()
    | st.builds(
        Limits, **dict.fromkeys([field.name for field in fields(Limits)], st.integers(0, 2**63 - 1))
    ),
    spec=st.none() | specs(),
    version=st.text(max_size=10),
    engine=st.sampled_from(["numba", "numpy"]),
    reach=st.none() | st.builds(Reach, **dict.fromkeys("VnlL", st.integers(0, 2**63 - 1))),
)
def test_a_description_comes_back_from_its_message_and_from_json(
    limits: Limits | None, spec: Spec | None, version: str, engine: str, reach: Reach | None
) -> None:
    described = Description(version=version, engine=engine, limits=limits, spec=spec, reach=reach)
    data = messages.description_to_message(described).SerializeToString()
    message = pb.DescribeResponse.FromString(data)
    assert messages.description_from_message(message, spec) == described
    assert Description.from_dict(json.loads(json.dumps(described.as_dict())), spec) == described


def test_a_description_tells_the_ids_of_the_spec_that_was_asked_about() -> None:
    described = Description(version="1", engine="numpy", limits=None, spec=Spec(V=300))
    ids = messages.description_to_message(described).token_ids
    assert (ids.mask, ids.separator, ids.vocabulary) == (0, 301, 302)
    assert ids.dtype == pb.DATA_TYPE_UINT16
    answer = described.as_dict()
    assert answer["ids"] == {"mask": 0, "separator": 301, "vocabulary": 302}
    assert answer["dtype"] == "uint16"
    assert "ids" not in replace(described, spec=None).as_dict()


@given(batches())
def test_a_batch_comes_back_from_its_bytes(batch: Batch) -> None:
    assert_same(wire.decode_batch(encoded(batch)), batch)


@given(batches())
def test_a_batch_comes_back_from_a_response(batch: Batch) -> None:
    data = wire.batch_response(wire.encode_batch(batch))
    assert_same(wire.batch_from_response(data), batch)
    for response in (pb.SampleResponse, pb.StreamBatchesResponse):
        assert response.FromString(data).batch == pb.Batch.FromString(encoded(batch))


@given(batches())
def test_the_plain_library_reads_the_bytes_of_a_batch(batch: Batch) -> None:
    message = pb.Batch.FromString(encoded(batch))
    assert message.generator == "metalm-1"
    assert messages.spec_from_message(message.spec) == batch.spec
    assert (message.seed, message.first, message.digest) == (batch.seed, batch.first, batch.digest)
    assert pb.Split.Name(message.split) == f"SPLIT_{batch.split.upper()}"
    assert pb.DataType.Name(message.dtype) == f"DATA_TYPE_{batch.spec.dtype.name.upper()}"
    assert list(message.shape) == list(batch.x.shape)
    assert message.x == batch.x.tobytes()
    assert message.y == batch.y.tobytes()
    assert message.HasField("first")
    assert message.HasField("digest")
    assert message.HasField("provenance") == (batch.provenance is not None)
    if batch.provenance is not None:
        for name in ("element", "offset", "exposure", "corruption"):
            sent = getattr(message.provenance, name)
            assert sent == getattr(batch.provenance, name).tobytes()
        sent_languages = [(one.lengths, one.tokens) for one in message.provenance.languages]
        assert sent_languages == [
            (one.lengths.tobytes(), one.tokens.tobytes()) for one in batch.provenance.languages
        ]


@given(batch=batches(), data=st.data())
def test_a_batch_may_have_its_fields_in_any_order(batch: Batch, data: st.DataObject) -> None:
    message = pb.Batch.FromString(encoded(batch))
    parts = []
    for field, _ in message.ListFields():
        part = pb.Batch()
        part.CopyFrom(message)
        for other, _ in message.ListFields():
            if other.name != field.name:
                part.ClearField(other.name)
        parts.append(part.SerializeToString())
    newer = b"\xf8\x07\x05"  # field 127, which this version does not know
    shuffled = data.draw(st.permutations([*parts, newer]))
    assert_same(wire.decode_batch(b"".join(shuffled)), batch)


@given(batches())
def test_a_batch_of_the_plain_library_is_read(batch: Batch) -> None:
    message = pb.Batch.FromString(encoded(batch))
    assert_same(wire.decode_batch(message.SerializeToString()), batch)


def test_fields_of_value_zero_are_sent_where_lengths_must_not_change() -> None:
    batch = small_batch(seed=0, first=0)
    x, y = np.zeros_like(batch.x), np.zeros_like(batch.y)
    zero = replace(batch, x=x, y=y, digest=0)
    full = replace(zero, first=2**64 - 1, digest=2**64 - 1)
    assert len(encoded(zero)) == len(encoded(full))
    assert_same(wire.decode_batch(encoded(zero)), zero)
    assert pb.Batch.FromString(encoded(zero)).HasField("digest")


@settings(max_examples=200)
@given(
    spec=specs(longest=50),
    seed=U64,
    start=st.sampled_from([0, 1, 2**32, 2**64 - 20]),
    samples=st.integers(1, 20),
    batch_size=st.integers(1, 25),
    split=st.sampled_from(Split),
)
@example(Spec(L=1), 0, 0, 1, 1, Split.TRAIN)
@example(Spec(L=127), 0, 0, 1, 1, Split.TEST)
@example(Spec(L=128), 0, 0, 129, 128, Split.TRAIN)
@example(Spec(L=2**14, V=2**30), 1, 0, 3, 2, Split.VALIDATION)
def test_the_length_of_an_answer_is_known_before_it_exists(
    spec: Spec, seed: int, start: int, samples: int, batch_size: int, split: Split
) -> None:
    request = BatchRequest(
        spec=spec, seed=seed, start=start, stop=start + samples, batch_size=batch_size, split=split
    )
    total = 0
    for first, size in request.ranges():
        x = np.zeros((size, spec.L), spec.dtype)
        batch = Batch(spec, seed, split, first, x, x, digest=first)
        total += len(b"".join(wire.length_prefixed(wire.encode_batch(batch))))
    assert wire.encoded_length(request) == total


def test_the_length_of_an_answer_with_provenance_is_not_known() -> None:
    request = BatchRequest(spec=Spec(), seed=0, stop=1, provenance=True)
    assert wire.encoded_length(request) is None


def test_the_length_of_a_huge_answer_is_known_at_once() -> None:
    request = BatchRequest(spec=Spec(L=2**34), seed=0, stop=2**64, batch_size=2**31 - 1)
    length = wire.encoded_length(request)
    assert length is not None
    assert 0 < length - 2 * 2**64 * 2**34 < 2**33 * 200


def test_a_decoded_batch_can_be_written_to() -> None:
    data = encoded(small_batch(provenance=True))
    for source in (data, bytearray(data), memoryview(data)):
        batch = wire.decode_batch(source)
        assert batch.provenance is not None
        arrays = [batch.x, batch.y, batch.provenance.element, batch.provenance.corruption]
        for array in arrays:
            assert array.flags.writeable
            assert array.flags.aligned
            array[:] = 1
    assert encoded(small_batch(provenance=True)) == data


def test_encoding_copies_no_array() -> None:
    batch = small_batch()
    views = [np.frombuffer(buffer, np.uint8) for buffer in wire.encode_batch(batch)]
    x, y = (view for view in views if view.size == batch.x.nbytes)
    assert np.shares_memory(x, batch.x)
    assert np.shares_memory(y, batch.y)


@given(
    spec=specs(longest=40),
    seed=U64,
    start=st.integers(0, 2**62),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    elsewhere=st.booleans(),
)
@example(Spec(V=300, L=3), 2**63, 1, [1, 1, 2], False)
@example(Spec(V=70_000, L=5), 1, 1, [3, 2, 1], False)
def test_batches_written_in_place_are_the_same_bytes(
    spec: Spec, seed: int, start: int, sizes: list[int], elsewhere: bool
) -> None:
    """With every width of a token, in the buffer or, where they would not be aligned, beside it."""
    stop = start + sum(sizes)
    request = BatchRequest(spec=spec, seed=seed, start=start, stop=stop, batch_size=max(sizes))
    writer = wire.StreamWriter(request, sizes)
    random = np.random.default_rng(seed)
    expected, first = b"", start
    for size in sizes:
        tokens = random.integers(0, spec.vocabulary, (2, size, spec.L)).astype(spec.dtype)
        x, y = tokens
        room = writer.room()
        if room is not None and not elsewhere:
            for there, array in zip(room, tokens, strict=True):
                there[:] = array
            x, y = room
        batch = Batch(spec, seed, request.split, first, x, y, digest_of(x, y))
        expected += b"".join(wire.length_prefixed(wire.encode_batch(batch)))
        writer.add(batch)
        first += size
    assert b"".join(writer.written()) == expected


@pytest.mark.parametrize("V", [64, 300, 70_000])
def test_the_first_batch_is_written_in_place(V: int) -> None:
    request = BatchRequest(spec=Spec(V=V, L=2**13), seed=1, stop=2, batch_size=1)
    writer = wire.StreamWriter(request, [1])
    room = writer.room()
    assert room is not None
    x, y = room
    writer.add(Batch(request.spec, 1, request.split, 0, x, y, digest_of(x, y)))
    (data,) = writer.written()
    assert np.shares_memory(np.frombuffer(data, np.uint8), x)


def test_arrays_of_the_other_byte_order_are_sent_in_the_contracts() -> None:
    batch = small_batch(V=300)
    swapped = replace(batch, x=batch.x.astype(">u2"), y=batch.y.astype(">u2"))
    assert encoded(swapped) == encoded(batch)
    swapped.verify()


def test_a_batch_that_breaks_off_is_corrupt() -> None:
    for provenance in (False, True):
        data = encoded(small_batch(provenance=provenance))
        for end in range(len(data)):
            with pytest.raises(CorruptBatch):
                wire.decode_batch(data[:end])
        response = wire.batch_response([data])
        for end in range(len(response)):
            with pytest.raises(CorruptBatch):
                wire.batch_from_response(response[:end])


@pytest.mark.parametrize("provenance", [False, True])
def test_a_changed_byte_leaves_the_tokens_or_is_found_out(provenance: bool) -> None:
    batch = small_batch(V=300, provenance=provenance)
    data = encoded(batch)
    for place in range(len(data)):
        for mask in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            changed = bytearray(data)
            changed[place] ^= mask
            assert_found_out_or_same_tokens(bytes(changed), batch)


@settings(max_examples=300)
@given(
    cuts=st.lists(
        st.tuples(st.integers(0, 250), st.integers(0, 12), st.binary(max_size=12)),
        min_size=1,
        max_size=4,
    ),
    provenance=st.booleans(),
)
def test_changed_stretches_leave_the_tokens_or_are_found_out(
    cuts: list[tuple[int, int, bytes]], provenance: bool
) -> None:
    batch = small_batch(V=300, provenance=provenance)
    data = encoded(batch)
    for place, removed, inserted in cuts:
        data = data[:place] + inserted + data[place + removed :]
    assert_found_out_or_same_tokens(data, batch)


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_batch_or_corrupt(data: bytes) -> None:
    for decode in (wire.decode_batch, wire.batch_from_response):
        with suppress(CorruptBatch):
            decode(data).verify()


@pytest.mark.parametrize(
    "change",
    [
        {"shape": []},
        {"shape": [2]},
        {"shape": [2, 9, 1]},
        {"shape": [9, 2]},
        {"shape": [1, 9]},
        {"shape": [3, 9]},
        {"shape": [2**62, 9]},
        {"shape": [-1, 9]},
        {"shape": [-2, 9]},
        {"shape": [2, -1]},
        {"dtype": pb.DATA_TYPE_UNSPECIFIED},
        {"dtype": pb.DATA_TYPE_UINT16},
        {"x": b""},
        {"x": b"\1" * 17},
        {"y": b"\1" * 19},
        {"spec": {"vocab_size": 1}},
        {"spec": {"vocab_size": 300}},
        {"spec": {"sequence_length": 18}},
    ],
    ids=str,
)
def test_a_batch_whose_header_does_not_fit_its_arrays_is_corrupt(change: dict[str, Any]) -> None:
    message = pb.Batch.FromString(encoded(small_batch()))
    for name in change:
        message.ClearField(name)
    message.MergeFrom(pb.Batch(**change))
    with pytest.raises(CorruptBatch):
        wire.decode_batch(message.SerializeToString())


def test_a_batch_without_samples_is_corrupt() -> None:
    message = pb.Batch.FromString(encoded(small_batch()))
    message.shape[0] = 0
    message.x = message.y = b""
    with pytest.raises(CorruptBatch):
        wire.decode_batch(message.SerializeToString()).verify()


def test_provenance_of_another_shape_is_corrupt() -> None:
    for name in ("element", "offset", "exposure", "corruption"):
        message = pb.Batch.FromString(encoded(small_batch(provenance=True)))
        setattr(message.provenance, name, getattr(message.provenance, name)[:-4])
        with pytest.raises(CorruptBatch):
            wire.decode_batch(message.SerializeToString())


def test_a_batch_with_another_digest_is_corrupt() -> None:
    batch = small_batch()
    batch.verify()
    with pytest.raises(CorruptBatch, match=f"sent was {batch.digest ^ 1:016x}"):
        replace(batch, digest=batch.digest ^ 1).verify()


def test_an_answer_without_a_batch_is_corrupt() -> None:
    for data in (b"", b"\x10\x05"):
        with pytest.raises(CorruptBatch):
            wire.batch_from_response(data)


@pytest.mark.parametrize("length", [0, 1, 127, 128, 2**14 - 1, 2**14, 2**21])
def test_a_length_prefix_is_a_varint(length: int) -> None:
    data = b"".join(wire.length_prefixed([b"\0" * length]))
    value, position = protobuf.read_varint(data, 0)
    assert (value, len(data) - position) == (length, length)


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 9, b"\xff" * 10, b"\x80" * 30])
def test_a_varint_that_does_not_end_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptBatch):
        protobuf.read_varint(data, 0)


def small_batch(V: int = 64, seed: int = 1, first: int = 5, provenance: bool = False) -> Batch:
    spec = Spec(V=V, n=2, L=9)
    x = np.arange(18).reshape(2, 9).astype(spec.dtype)
    y = x[::-1].copy()
    numbers = np.arange(18, dtype=np.int32).reshape(2, 9)
    language = Language(np.array([3, 4], np.int32), np.arange(7).astype(spec.dtype))
    found = Provenance(numbers, numbers, numbers, numbers.astype(np.uint8), (language, language))
    return Batch(
        spec=spec,
        seed=seed,
        split=Split.TEST,
        first=first,
        x=x,
        y=y,
        digest=digest_of(x, y),
        provenance=found if provenance else None,
    )


def encoded(batch: Batch) -> bytes:
    return b"".join(wire.encode_batch(batch))


def assert_found_out_or_same_tokens(data: bytes, batch: Batch) -> None:
    # The digest is of the tokens alone: that the header is the one asked for is the client's to
    # see, who knows what it asked for.
    try:
        found = wire.decode_batch(data)
        found.verify()
    except CorruptBatch:
        return
    assert found.x.tobytes() == batch.x.tobytes()
    assert found.y.tobytes() == batch.y.tobytes()


def assert_same(found: Batch, expected: Batch) -> None:
    names = ("spec", "seed", "split", "first", "digest", "generator")
    assert [getattr(found, name) for name in names] == [getattr(expected, name) for name in names]
    for name in ("x", "y"):
        assert_same_array(getattr(found, name), getattr(expected, name))
    assert (found.provenance is None) == (expected.provenance is None)
    if found.provenance is None or expected.provenance is None:
        return
    for name in ("element", "offset", "exposure", "corruption"):
        assert_same_array(getattr(found.provenance, name), getattr(expected.provenance, name))
    for one, other in zip(found.provenance.languages, expected.provenance.languages, strict=True):
        assert_same_array(one.lengths, other.lengths)
        assert_same_array(one.tokens, other.tokens)


def assert_same_array(found: NDArray[Any], expected: NDArray[Any]) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()
