from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalm_proto.errors import InvalidArgument, UnknownGenerator
from metalm_proto.fields import Field
from metalm_proto.spec import (
    FIRST,
    GENERATORS,
    INDEX,
    REQUEST_FIELDS,
    SIZE,
    SPEC_FIELDS,
    BatchRequest,
    Profile,
    Spec,
    Split,
    draw_seed,
)

INF, NAN = math.inf, math.nan


@dataclass(frozen=True)
class Number:
    """What the contract says of one number: written here a second time on purpose."""

    name: str
    lowest: Any
    highest: Any
    low_shown: str
    high_shown: str
    label: str
    holder: Callable[[Any], Any]

    def held(self, value: object) -> Any:
        return self.holder(value)


def in_spec(name: str) -> Callable[[Any], Any]:
    return lambda value: getattr(Spec(**{name: value}), name)


def in_request(name: str) -> Callable[[Any], Any]:
    def held(value: Any) -> Any:
        others: dict[str, Any] = {"seed": 0, "stop": 2**64, **{name: value}}
        return getattr(BatchRequest(spec=Spec(), **others), name)

    return held


def in_single(name: str, attribute: str) -> Callable[[Any], Any]:
    return lambda value: getattr(
        BatchRequest.single(spec=Spec(), seed=0, **{name: value}), attribute
    )


U64 = 2**64 - 1
INTEGERS = [
    Number("V", 2, 2**31 - 3, "2 <= V", "V <= 2147483645", "vocab_size (V)", in_spec("V")),
    Number("n", 1, 2**24 - 1, "1 <= n", "n <= 16777215", "elements_number (n)", in_spec("n")),
    Number("L", 1, 2**34, "1 <= L", "L <= 17179869184", "sequence_length (L)", in_spec("L")),
    Number("language", 0, U64, "0 <=", f"<= {U64}", "language", in_spec("language")),
    Number("seed", 0, U64, "0 <=", f"<= {U64}", "seed", in_request("seed")),
    Number("start", 0, U64, "0 <=", f"<= {U64}", "start", in_request("start")),
    Number("stop", 1, 2**64, "1 <=", f"<= {2**64}", "stop", in_request("stop")),
    Number(
        "batch_size", 1, 2**31 - 1, "1 <=", "<= 2147483647", "batch_size", in_request("batch_size")
    ),
    Number("first", 0, U64, "0 <=", f"<= {U64}", "first", in_single("first", "start")),
    Number("size", 1, 2**31 - 1, "1 <=", "<= 2147483647", "size", in_single("size", "samples")),
]
TINY, BELOW_1 = 5e-324, 1 - 2.0**-53
DOUBLES = [
    Number("l", TINY, 2.0**20, "0 < l", "l <= 1048576", "elements_length (l)", in_spec("l")),
    Number("e", 0.0, BELOW_1, "0 <= e", "e < 1", "error_rate (e)", in_spec("e")),
    Number("mask_ratio", 0.0, 1.0, "0 <=", "<= 1", "mask_ratio", in_spec("mask_ratio")),
]
NUMBERS = [*INTEGERS, *DOUBLES]
EACH_INTEGER = pytest.mark.parametrize("number", INTEGERS, ids=lambda number: number.name)
EACH_DOUBLE = pytest.mark.parametrize("number", DOUBLES, ids=lambda number: number.name)
EACH_NUMBER = pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number.name)

INTEGER_VALUES = [-(2**63), -1, 0, 1, 2, 10**12, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63]
HUGE_VALUES = [2**64 - 1, 2**64, 2**64 + 1, 10**30]


@EACH_INTEGER
def test_an_integer_is_right_at_both_bounds_and_wrong_beyond(number: Number) -> None:
    for value in (number.lowest, number.highest):
        assert number.held(value) == value
        assert type(number.held(value)) is int
    for value in (number.lowest - 1, number.highest + 1):
        assert_refused(number, value, shown=str(value))


@EACH_INTEGER
@pytest.mark.parametrize("value", [*INTEGER_VALUES, *HUGE_VALUES])
def test_an_integer_is_right_within_its_bounds_only(number: Number, value: int) -> None:
    if number.lowest <= value <= number.highest:
        assert number.held(value) == value
    else:
        assert_refused(number, value, shown=str(value))


@EACH_INTEGER
@pytest.mark.parametrize(
    "value",
    [
        *[5.0, 5.5, NAN, INF, -INF, Fraction(5), Decimal(5), 5 + 0j],
        *["5", b"5", "", True, False, [5], (5,), {}, object],
        *[np.float64(5), np.float32(5), np.bool_(True), np.array(5), np.array([5]), np.str_("5")],
    ],
    ids=repr,
)
def test_an_integer_is_of_no_other_type(number: Number, value: object) -> None:
    assert_refused(number, value)


@EACH_INTEGER
@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.uint32, np.int64, np.uint64])
def test_an_integer_may_be_a_scalar_of_numpy(number: Number, kind: type[np.integer[Any]]) -> None:
    held = number.held(kind(5))
    assert held == 5
    assert type(held) is int


@EACH_INTEGER
def test_a_scalar_of_numpy_is_checked_too(number: Number) -> None:
    assert_refused(number, np.int64(-1), shown="-1")
    if number.highest < 2**63:
        assert_refused(number, np.uint64(2**64 - 1), shown=str(2**64 - 1))


@EACH_DOUBLE
def test_a_double_is_right_at_both_bounds_and_wrong_beyond(number: Number) -> None:
    for value in (number.lowest, number.highest):
        assert number.held(value) == value
        assert type(number.held(value)) is float
    for value in (math.nextafter(number.lowest, -1), math.nextafter(number.highest, INF)):
        assert_refused(number, value, shown=str(value))


@EACH_DOUBLE
@pytest.mark.parametrize(
    "value",
    [
        *[NAN, INF, -INF, -1, -0.5, 2**31, 10**12, 2**63 - 1, 2**64, 1e300, 10**400, 10**5000],
        *[5j, Decimal("0.5"), "0.5", b"0.5", "", True, False, [0.5], {}],
        *[np.float64(NAN), np.float32(INF), np.bool_(True), np.array(0.5), np.str_("0.5")],
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_double_is_finite_within_its_bounds_and_of_no_other_type(
    number: Number, value: object
) -> None:
    assert_refused(number, value)


@EACH_DOUBLE
@pytest.mark.parametrize(
    "value", [0.5, Fraction(1, 2), np.float64(0.5), np.float32(0.5), np.float16(0.5)], ids=repr
)
def test_a_double_may_be_any_real_number(number: Number, value: object) -> None:
    held = number.held(value)
    assert held == 0.5
    assert type(held) is float


def test_an_integer_may_stand_for_a_double() -> None:
    spec = Spec(l=np.int32(5), e=0, mask_ratio=1)  # type: ignore[arg-type]  # numpy's scalars do
    assert (spec.l, spec.e, spec.mask_ratio) == (5.0, 0.0, 1.0)
    assert {type(value) for value in (spec.l, spec.e, spec.mask_ratio)} == {float}


@pytest.mark.parametrize("name", ["e", "mask_ratio"])
def test_minus_zero_is_zero(name: str) -> None:
    assert math.copysign(1, in_spec(name)(-0.0)) == 1


@EACH_NUMBER
def test_a_number_is_not_none_unless_it_may_be_absent(number: Number) -> None:
    if number.name == "language":
        assert number.held(None) is None
    else:
        assert_refused(number, None)


@pytest.mark.parametrize("value", ["metagym", Profile.METAGYM, np.str_("metagym")], ids=repr)
def test_a_profile_may_be_its_name(value: Any) -> None:
    assert Spec(profile=value).profile is Profile.METAGYM


@pytest.mark.parametrize(
    "value", ["", "METALM", "metalm ", "metalm-1", "train", None, 0, 1, True, b"metalm", ["metalm"]]
)
def test_any_other_profile_is_refused(value: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"profile is .* must be one of metalm, metagym"):
        Spec(profile=value)


@pytest.mark.parametrize("value", ["Train", "val", "", None, 0, 1, True, Profile.METALM])
def test_any_other_split_is_refused(value: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"split is .* one of train, validation, test"):
        BatchRequest(spec=Spec(), seed=0, stop=1, split=value)


@pytest.mark.parametrize("value", [0, 1, None, "true", "", np.bool_(True)])
def test_provenance_is_true_or_false(value: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"provenance is .* must be true or false"):
        BatchRequest(spec=Spec(), seed=0, stop=1, provenance=value)


@pytest.mark.parametrize("name", ["metalm-2", "", "METALM-1", "metalm-1 ", "x" * 10**5, "\n"])
def test_another_generator_is_unknown(name: str) -> None:
    with pytest.raises(UnknownGenerator) as caught:
        BatchRequest(spec=Spec(), seed=0, stop=1, generator=name)
    assert caught.value.field == "generator"
    assert caught.value.bound == "one of " + ", ".join(GENERATORS)
    assert_presentable(caught.value)


@pytest.mark.parametrize("name", [None, 1, b"metalm-1", ["metalm-1"]])
def test_a_generator_is_text(name: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"generator is .* must be text"):
        BatchRequest(spec=Spec(), seed=0, stop=1, generator=name)


def test_profile_metagym_needs_two_elements() -> None:
    assert Spec(n=1).usable_elements == 1
    assert Spec(n=2, profile=Profile.METAGYM).usable_elements == 1
    with pytest.raises(InvalidArgument) as caught:
        Spec(n=1, profile=Profile.METAGYM)
    assert caught.value.field == "elements_number (n)"
    assert caught.value.value == "1"
    assert "2 <= n <= 16777215" in caught.value.bound


@pytest.mark.parametrize(("start", "stop"), [(5, 5), (6, 5), (1, 1), (2**64 - 1, 2**64 - 1)])
def test_stop_is_above_start(start: int, stop: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        BatchRequest(spec=Spec(), seed=0, start=start, stop=stop)
    assert caught.value.field == "stop"
    assert caught.value.value == str(stop)
    assert f"{start + 1} <= stop <= {2**64}" in caught.value.bound


def test_a_single_batch_ends_with_the_last_sample_of_all() -> None:
    request = BatchRequest.single(spec=Spec(), seed=0, first=2**64 - 3, size=3)
    assert (request.start, request.stop, request.samples) == (2**64 - 3, 2**64, 3)
    with pytest.raises(InvalidArgument) as caught:
        BatchRequest.single(spec=Spec(), seed=0, first=2**64 - 3, size=4)
    assert caught.value.field == "size"
    assert "1 <= size <= 3" in caught.value.bound


@given(start=st.integers(0, 10**6), samples=st.integers(1, 500), batch_size=st.integers(1, 600))
def test_the_batches_of_a_request_follow_one_another(
    start: int, samples: int, batch_size: int
) -> None:
    request = BatchRequest(
        spec=Spec(), seed=0, start=start, stop=start + samples, batch_size=batch_size
    )
    ranges = list(request.ranges())
    indices = [index for first, size in ranges for index in range(first, first + size)]
    assert indices == list(range(start, start + samples))
    assert [size for _, size in ranges[:-1]] == [batch_size] * (len(ranges) - 1)
    assert request.largest_batch == max(size for _, size in ranges)
    assert request.samples == samples


@pytest.mark.parametrize(
    ("V", "dtype"),
    [
        *[(2, "|u1"), (253, "|u1"), (254, "|u1"), (255, "<u2"), (256, "<u2")],
        *[(65533, "<u2"), (65534, "<u2"), (65535, "<i4"), (65536, "<i4"), (2**31 - 3, "<i4")],
    ],
)
def test_the_smallest_type_that_holds_the_vocabulary_is_used(V: int, dtype: str) -> None:
    spec = Spec(V=V)
    assert spec.dtype.str == dtype
    assert spec.vocabulary - 1 == spec.separator_id == V + 1 <= np.iinfo(spec.dtype).max


def test_a_spec_knows_its_ids() -> None:
    assert Spec(V=8).ids() == {"mask": 0, "separator": 9, "vocabulary": 10}
    assert (Spec(V=8).mask_id, Spec(V=8).separator_id, Spec(V=8).vocabulary) == (0, 9, 10)


def test_the_profile_decides_what_can_occur() -> None:
    for profile, lost in ((Profile.METALM, 0), (Profile.METAGYM, 1)):
        spec = Spec(V=8, n=5, profile=profile)
        assert (spec.alphabet, spec.usable_elements) == (8 - lost, 5 - lost)


def test_the_defaults_are_the_contracts() -> None:
    expected = {"V": 64, "n": 10, "l": 64.0, "e": 0.1, "L": 4096, "mask_ratio": 0.3}
    assert Spec().as_dict() == {**expected, "profile": "metalm", "language": None}
    assert {field.name: field.default for field in SPEC_FIELDS} == Spec().as_dict()


def test_every_field_is_described_and_every_description_a_field() -> None:
    for described, kind in ((SPEC_FIELDS, Spec), (REQUEST_FIELDS, BatchRequest)):
        names = {field.name for field in fields(kind)} - {"spec"}
        assert names == {field.name for field in described}
        assert all(field.doc for field in described)


def test_a_spec_comes_back_from_its_dictionary_and_from_a_pickle() -> None:
    spec = Spec(V=9, n=3, l=2.5, profile=Profile.METAGYM, language=2**64 - 1)
    assert Spec(**spec.as_dict()) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec


@pytest.mark.parametrize("value", [Spec(), BatchRequest(spec=Spec(), seed=0, stop=1)], ids=repr)
def test_specs_and_requests_cannot_be_changed(value: Any) -> None:
    for field in fields(value):
        with pytest.raises(FrozenInstanceError):
            setattr(value, field.name, getattr(value, field.name))
    with pytest.raises(TypeError):
        type(value)(64)


def test_specs_and_requests_are_keys() -> None:
    assert {Spec(l=64): 1}[Spec(l=64.0)] == 1
    assert len({Spec(), Spec(V=64), Spec(V=65)}) == 2
    request = BatchRequest(spec=Spec(), seed=0, stop=1)
    assert {request: 1}[replace(request)] == 1


def test_replacing_a_field_checks_it() -> None:
    with pytest.raises(InvalidArgument):
        replace(Spec(), V=1)


def test_splits_have_the_codes_of_the_contract() -> None:
    assert [split.code for split in (Split.TRAIN, Split.VALIDATION, Split.TEST)] == [0, 1, 2]


def test_drawn_seeds_differ_and_are_kept_by_every_reader_of_json() -> None:
    seeds = {draw_seed() for _ in range(100)}
    assert len(seeds) == 100
    assert all(0 <= seed < 2**53 for seed in seeds)


LENGTH, SEED = (
    next(field for field in SPEC_FIELDS if field.name == "l"),
    next(field for field in REQUEST_FIELDS if field.name == "seed"),
)
ANY_DOUBLE = Field(name="x", doc="any double", kind=float)


@pytest.mark.parametrize(
    ("text", "value"),
    [("5", 5), ("+5", 5), ("-0", 0), ("+0", 0), ("007", 7), (str(2**64 - 1), 2**64 - 1)],
)
def test_an_integer_is_read_from_its_digits(text: str, value: int) -> None:
    assert SEED.parse(text) == value
    assert type(SEED.parse(text)) is int


@pytest.mark.parametrize(
    "text",
    [
        *["", " ", " 5", "5 ", "5\n", "\t5", "1_000", "0x10", "0b1", "\uff15", "\u0665", "\u00b2"],
        *["5.0", "5.", "1e3", "--5", "+-5", "5-", "nan", "inf", "None", "true", "5\0", "1,000"],
        *["-1", str(2**64), "9" * 40, "9" * 41, "9" * 10**5, "0" * 41, "five"],
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_any_other_text_is_no_integer(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        SEED.parse(text)
    assert caught.value.field == "seed"
    assert_presentable(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("5", 5.0), ("5.0", 5.0), ("5.", 5.0), (".5", 0.5), ("+.5", 0.5), ("1e-3", 0.001)],
        *[("1E+3", 1000.0), ("5e-324", 5e-324), ("00.5", 0.5), ("1e0000", 1.0)],
    ],
)
def test_a_double_is_read_from_its_decimal(text: str, value: float) -> None:
    assert LENGTH.parse(text) == value
    assert type(LENGTH.parse(text)) is float


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_double_is_read_from_what_python_prints(value: float) -> None:
    assert ANY_DOUBLE.parse(repr(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        *["", " ", " 0.5", "0.5 ", "0.5\n", "1_0.5", "1_0", "0x1p3", "\uff11.5", "1e", "e5", "."],
        *["1e400", "-1e400", "1e999999", "1e9999999", "9" * 400, "nan", "NaN", "inf", "-inf"],
        *["infinity", "1.5.5", "1,5", "+-1", "1e5.0", "1e 5", "1j", "0.5\0", "True", "1/2"],
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_any_other_text_is_no_double(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        ANY_DOUBLE.parse(text)
    assert caught.value.field == "x"
    assert_presentable(caught.value)


@pytest.mark.parametrize("text", ["0", "-0", "-1", "1e-400", "1048576.1"])
def test_a_double_out_of_bounds_is_refused_as_it_was_written(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        LENGTH.parse(text)
    assert str(caught.value) == (
        f"elements_length (l) is {text}; it must be a number with 0 < l <= 1048576"
    )


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("TRUE", True), ("1", True), ("False", False), ("0", False)]
)
def test_a_switch_is_read_from_true_or_false(text: str, value: bool) -> None:
    assert REQUEST_FIELDS[-1].parse(text) is value


@pytest.mark.parametrize("text", ["", "yes", "2", "on", " true", "\uff54rue"])
def test_any_other_text_is_no_switch(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"provenance is .* must be true or false"):
        REQUEST_FIELDS[-1].parse(text)


@pytest.mark.parametrize("field", [*SPEC_FIELDS, *REQUEST_FIELDS, FIRST, SIZE, INDEX])
@given(text=st.text(max_size=300) | st.text("0123456789+-.eE", max_size=60))
def test_any_text_is_a_value_or_an_invalid_argument(field: Field, text: str) -> None:
    refused = None
    try:
        value = field.parse(text)
    except InvalidArgument as error:
        refused = error
    if refused is None:
        assert isinstance(value, field.kind)
        assert field.check(value) == value
    else:
        assert (refused.field, refused.bound) == (field.label, field.bound)
        assert_presentable(refused)


def assert_refused(number: Number, value: object, shown: str | None = None) -> None:
    with pytest.raises(InvalidArgument) as caught:
        number.held(value)
    error = caught.value
    assert type(error) is InvalidArgument
    assert error.field == number.label
    assert number.low_shown in error.bound
    assert number.high_shown in error.bound
    assert str(error) == f"{error.field} is {error.value}; it must be {error.bound}"
    if shown is not None:
        assert error.value == shown
    assert_presentable(error)


def assert_presentable(error: InvalidArgument) -> None:
    assert str(error).isprintable()
    assert str(error).isascii()
    assert len(error.value) <= 80
