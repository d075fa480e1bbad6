from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalm_proto.errors import InvalidArgument, UnknownGenerator
from metalm_proto.fields import Field
from metalm_proto.messages import stream_request_from_message
from metalm_proto.query import (
    BATCHES_QUERY,
    SAMPLE_QUERY,
    batches_pairs,
    parse_batches,
    parse_sample,
    parse_spec,
    spec_pairs,
)
from metalm_proto.spec import SPEC_FIELDS, BatchRequest, Profile, Spec, Split
from metalm_proto.v1 import metalm_pb2 as pb
from tests.proto.strategies import requests, specs


@given(specs())
def test_a_spec_comes_back_from_its_query(spec: Spec) -> None:
    assert parse_spec(spec_pairs(spec)) == spec


def test_no_query_is_no_spec() -> None:
    assert parse_spec([]) is None
    assert spec_pairs(None) == []


@given(requests(most=2**64))
def test_a_request_comes_back_from_its_query(request: BatchRequest) -> None:
    assert parse_batches(batches_pairs(request)) == (request, True)


def test_the_canonical_query_spells_the_defaults_out() -> None:
    request = BatchRequest(spec=Spec(), seed=7, stop=64)
    assert "&".join(f"{name}={value}" for name, value in batches_pairs(request)) == (
        "V=64&n=10&l=64.0&e=0.1&L=4096&mask_ratio=0.3&profile=metalm&start=0&stop=64"
        "&batch_size=32&seed=7&split=train&generator=metalm-1"
    )


def test_long_names_mean_the_same() -> None:
    long = [
        ("vocab_size", "8"),
        ("elements_number", "3"),
        ("elements_length", "5.5"),
        ("error_rate", "0.2"),
        ("sequence_length", "99"),
    ]
    short = [(short, value) for (_, value), short in zip(long, "VnleL", strict=True)]
    assert parse_spec(long) == parse_spec(short) == Spec(V=8, n=3, l=5.5, e=0.2, L=99)


def test_every_parameter_of_a_sample_is_understood() -> None:
    pairs = [
        *[("V", "8"), ("n", "3"), ("l", "5.5"), ("e", "0.2"), ("L", "99"), ("mask_ratio", "1")],
        *[("profile", "metagym"), ("language", "4"), ("index", "6"), ("seed", "7")],
        *[("split", "test"), ("generator", "metalm-1"), ("provenance", "true")],
    ]
    assert {name for name, _ in pairs} == {field.name for field in SAMPLE_QUERY}
    spec = Spec(V=8, n=3, l=5.5, e=0.2, L=99, mask_ratio=1, profile=Profile.METAGYM, language=4)
    expected = BatchRequest.single(
        spec=spec, first=6, size=1, seed=7, split=Split.TEST, provenance=True
    )
    assert parse_sample(pairs) == (expected, True)


def test_an_empty_query_is_the_default_sample_of_a_fresh_seed() -> None:
    (one, seeded), (other, _) = parse_sample([]), parse_sample([])
    assert not seeded
    assert one.spec == Spec()
    assert (one.start, one.stop, one.split) == (0, 1, Split.TRAIN)
    assert 0 <= one.seed < 2**53
    assert one.seed != other.seed


def test_the_last_sample_of_all_can_be_asked_for() -> None:
    request, _ = parse_sample([("index", str(2**64 - 1))])
    assert (request.start, request.samples) == (2**64 - 1, 1)


@pytest.mark.parametrize(
    "name", ["sed", "SEED", "v", "", "seed ", "start", "x" * 10**4, "\n", "V\0"]
)
def test_an_unknown_parameter_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_sample([("V", "8"), (name, "1")])
    assert caught.value.field == "parameter"
    assert caught.value.value.startswith(ascii(name)[:70])
    assert all(field.name in caught.value.bound.split(", ")[1:] for field in SAMPLE_QUERY[1:])
    assert_presentable(caught.value)


def test_parameters_of_another_question_are_unknown() -> None:
    for name in ("index", "size", "first"):
        with pytest.raises(InvalidArgument):
            parse_batches([("stop", "5"), (name, "1")])
    for name in ("seed", "split", "start"):
        with pytest.raises(InvalidArgument):
            parse_spec([(name, "1")])


@pytest.mark.parametrize("field", BATCHES_QUERY, ids=lambda field: field.name)
def test_a_parameter_is_given_once(field: Field) -> None:
    words = {"profile": "metalm", "split": "test", "generator": "metalm-1", "provenance": "true"}
    text = words.get(field.name, "0.5" if field.kind is float else "5")
    with pytest.raises(InvalidArgument) as caught:
        parse_batches([(field.name, text), (field.long_name, text)])
    assert caught.value.bound == "given once"
    assert field.name in caught.value.field


@pytest.mark.parametrize("field", SPEC_FIELDS, ids=lambda field: field.name)
@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "nan",
        "inf",
        "1e400",
        "-1",
        "0x10",
        "1_0",
        " 5",
        "5 ",
        "\uff15",
        "5\n",
        "5,5",
        "1e",
        "²",
    ],
    ids=ascii,
)
def test_bad_numbers_are_refused_under_both_names(field: Field, text: str) -> None:
    for name in {field.name, field.long_name}:
        with pytest.raises(InvalidArgument) as caught:
            parse_spec([(name, text)])
        assert field.name in caught.value.field
        assert_presentable(caught.value)


def test_batches_need_a_stop_above_start() -> None:
    with pytest.raises(InvalidArgument, match="stop"):
        parse_batches([])
    for start, stop in ((5, 5), (6, 5), (2**64 - 1, 1)):
        with pytest.raises(InvalidArgument, match=f"stop is {stop}"):
            parse_batches([("start", str(start)), ("stop", str(stop))])


def test_a_request_for_another_generator_is_refused() -> None:
    with pytest.raises(UnknownGenerator, match="generator is 'metalm-2'; it must be one of"):
        parse_sample([("generator", "metalm-2")])


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=4))
def test_any_text_gives_a_request_or_an_invalid_argument(pairs: list[tuple[str, str]]) -> None:
    names = [field.name for field in SAMPLE_QUERY]
    chosen = [(names[len(name) % len(names)], text) for name, text in pairs]
    for question in (pairs, chosen):
        try:
            request, _ = parse_sample(question)
        except InvalidArgument as error:
            assert_presentable(error)
        else:
            assert isinstance(request, BatchRequest)


def test_numbers_of_the_spec_become_python_numbers() -> None:
    spec = Spec(V=np.int64(8), l=np.float64(5.5))  # type: ignore[arg-type]  # numpy's scalars do
    assert dict(spec_pairs(spec))["V"] == "8"
    assert dict(spec_pairs(spec))["l"] == "5.5"


def assert_presentable(error: InvalidArgument) -> None:
    assert str(error).isprintable()
    assert str(error).isascii()
    assert len(str(error)) < 400


@pytest.mark.parametrize("text", ["batch_size=0 L=0 V=1 stop=1", "V=1 stop=1 L=0 batch_size=0"])
def test_of_several_wrong_values_the_first_field_is_refused_wherever_it_stands(text: str) -> None:
    """As by the door whose messages have no order."""
    pairs = [pair.split("=") for pair in text.split()]
    with pytest.raises(InvalidArgument) as caught:
        parse_batches((name, value) for name, value in pairs)
    assert caught.value.field == "vocab_size (V)"


def test_a_message_with_several_wrong_values_names_the_same_field() -> None:
    message = pb.StreamBatchesRequest(spec=pb.Spec(vocab_size=1), samples=0, batch_size=0)
    with pytest.raises(InvalidArgument) as caught:
        stream_request_from_message(message)
    assert caught.value.field == "vocab_size (V)"
