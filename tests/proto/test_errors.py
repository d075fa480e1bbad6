from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalm_proto import errors
from metalm_proto.errors import (
    ERRORS,
    CorruptBatch,
    DeadlineExceeded,
    Draining,
    InternalError,
    InvalidArgument,
    LimitExceeded,
    MetaLMError,
    NotTls,
    Overloaded,
    Starting,
    Unauthenticated,
    Unavailable,
    UnknownGenerator,
    Unreachable,
    Untrusted,
    from_reason,
)

EXAMPLES = [
    InvalidArgument("seed", -1, "an integer with 0 <= seed"),
    LimitExceeded("batch_size", 10**6, "an integer with 1 <= batch_size <= 1000"),
    UnknownGenerator("generator", "metalm-2", "one of metalm-1"),
    Unavailable("nobody answers", 1.5),
    Starting("kernels are compiled", 2.0),
    Overloaded("too much in flight", 0.25),
    Draining("going away"),
    Unreachable("cannot connect"),
    Unauthenticated("HTTP status 401"),
    Untrusted("its certificate is out of date"),
    DeadlineExceeded("no answer in 3 s"),
    CorruptBatch("digest differs"),
    InternalError("request 7f failed"),
    NotTls("it speaks something else"),
]


def test_the_table_lists_every_error_once() -> None:
    assert set(ERRORS) == set(below(MetaLMError))
    assert len(ERRORS) == len(set(ERRORS))
    assert {type(example) for example in EXAMPLES} == set(ERRORS)


def test_the_docstring_draws_every_error() -> None:
    assert errors.__doc__
    for error in ERRORS:
        assert f"─ {error.__name__} " in errors.__doc__


def test_every_reason_is_unique_and_fit_for_an_error_info() -> None:
    reasons = [error.reason for error in ERRORS]
    assert len(set(reasons)) == len(reasons)
    for reason in reasons:
        assert reason.replace("_", "").isalpha()
        assert reason.isupper()
        assert len(reason) <= 63


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_has_a_code_of_grpc(error: type[MetaLMError]) -> None:
    assert grpc.StatusCode[error.grpc_code] is not grpc.StatusCode.OK


@pytest.mark.parametrize("error", ERRORS)
def test_the_status_tells_whose_fault_it_was(error: type[MetaLMError]) -> None:
    if issubclass(error, InvalidArgument | Unauthenticated):
        assert 400 <= error.http_status < 500
        assert not error.retryable
    else:
        assert 500 <= error.http_status < 600


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_has_a_reason_of_its_own_and_a_docstring(error: type[MetaLMError]) -> None:
    assert "reason" in vars(error)
    assert error.__doc__


def test_only_errors_that_may_pass_are_retryable() -> None:
    assert {error.__name__ for error in ERRORS if error.retryable} == {
        "Unavailable",
        "Starting",
        "Overloaded",
        "Draining",
        "Unreachable",
        "DeadlineExceeded",
        "CorruptBatch",
    }


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_survive_pickling(error: MetaLMError) -> None:
    assert_same(pickle.loads(pickle.dumps(error)), error)
    assert_same(copy.copy(error), error)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_is_rebuilt_from_its_reason(error: MetaLMError) -> None:
    wait = getattr(error, "retry_after_s", None)
    assert_same(from_reason(error.reason, str(error), error.details(), wait), error)


def test_an_unknown_reason_is_an_internal_error() -> None:
    error = from_reason("NEW_IN_2030", "what it said", {"field": "seed"})
    assert type(error) is InternalError
    assert str(error) == "what it said"


def test_an_invalid_argument_without_details_is_still_one() -> None:
    error = from_reason("INVALID_ARGUMENT", "what it said", {})
    assert isinstance(error, InvalidArgument)
    assert str(error) == "what it said"
    assert (error.field, error.value, error.bound) == ("", "", "")


def test_an_invalid_argument_names_field_value_and_bound() -> None:
    error = InvalidArgument("seed", -1, "positive")
    assert str(error) == "seed is -1; it must be positive"
    assert error.details() == {"field": "seed", "value": "-1", "bound": "positive"}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (5, "5"),
        (0.1, "0.1"),
        ("5", "'5'"),
        (None, "None"),
        (np.int64(5), "5"),
        (np.float32(0.5), "0.5"),
        ("tab\t", r"'tab\t'"),
        ("\x1b[31m", r"'\x1b[31m'"),
        ("\uff15", r"'\uff15'"),
        (10**100, "1" + "0" * 76 + "..."),
        ("x" * 100, "'" + "x" * 76 + "..."),
    ],
)
def test_a_value_is_shown_as_one_short_line(value: object, shown: str) -> None:
    assert InvalidArgument("field", value, "bound").value == shown


def test_an_integer_of_more_digits_than_python_prints_is_shown_by_its_size() -> None:
    assert InvalidArgument("seed", 10**5000, "bound").value == "a number of 16610 bits"


class Rude:
    """A value whose text is not fit for a message."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


@given(st.text(max_size=200) | st.text(max_size=200).map(Rude) | st.binary(max_size=200))
def test_no_value_brings_control_characters_or_length_into_a_message(value: object) -> None:
    error = InvalidArgument("field", value, "bound")
    assert len(error.value) <= 80
    assert error.value.isascii()
    assert error.value.isprintable()


def test_a_value_of_many_lines_is_shown_on_one() -> None:
    assert "\n" not in str(InvalidArgument("V", np.zeros((2, 2)), "an integer"))


def assert_same(found: MetaLMError, expected: MetaLMError) -> None:
    assert type(found) is type(expected)
    assert str(found) == str(expected)
    assert found.details() == expected.details()
    assert vars(found) == vars(expected)


def below(error: type[MetaLMError]) -> Iterator[type[MetaLMError]]:
    for subclass in error.__subclasses__():
        yield subclass
        yield from below(subclass)
