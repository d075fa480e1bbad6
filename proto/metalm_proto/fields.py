"""What one parameter is: its names, its type and its bounds.

Checks, queries, flags and the OpenAPI page all derive from these descriptions,
so that a bound is written once.
"""

from __future__ import annotations

import math
import numbers
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from metalm_proto.errors import InvalidArgument

U64 = 2**64
_INTEGER = re.compile(r"[+-]?[0-9]{1,40}", re.ASCII)
# One way to match each text: with two, a long wrong one would take quadratic time to refuse.
_DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,6})?", re.ASCII)
_LONGEST_NUMBER = 1100
"""No double needs more digits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """A parameter with its bounds.

    `name` is the short name (papers, queries, Python), `wire` the long one (proto, command
    line). `kind` is int, float, bool, str or a StrEnum. Bounds hold for numbers, and
    `open_lower`/`open_upper` exclude the bound itself.
    """

    name: str
    doc: str
    kind: type[Any] = int
    wire: str = ""
    default: Any = None
    lower: int | float | None = None
    upper: int | float | None = None
    open_lower: bool = False
    open_upper: bool = False

    @property
    def long_name(self) -> str:
        return self.wire or self.name

    @property
    def label(self) -> str:
        """The name in messages: both names where they differ."""
        return f"{self.wire} ({self.name})" if self.wire and self.wire != self.name else self.name

    @property
    def bound(self) -> str:
        """What is right, in words, to follow "it must be"."""
        if issubclass(self.kind, StrEnum):
            return "one of " + ", ".join(self.kind)
        if self.kind is bool:
            return "true or false"
        if self.kind is str:
            return "text"
        what = "an integer" if self.kind is int else "a number"
        low = "" if self.lower is None else f"{self.lower} {'<' if self.open_lower else '<='} "
        high = "" if self.upper is None else f" {'<' if self.open_upper else '<='} {self.upper}"
        return f"{what} with {low}{self.name}{high}" if low or high else what

    def check(self, value: object) -> Any:
        """The value in its own type.

        Raises InvalidArgument for a wrong type (a bool is no number, text is no number, a float
        is no integer), a value out of bounds, NaN and infinities.
        """
        checked = self._typed(value)
        if checked is None or not self._within(checked):
            raise InvalidArgument(self.label, value, self.bound)
        return checked

    def parse(self, text: str) -> Any:
        """The value that a query or a flag spells. Raises InvalidArgument like `check`."""
        value: object = text
        if self.kind is int and _INTEGER.fullmatch(text):
            value = int(text)
        elif self.kind is float and len(text) <= _LONGEST_NUMBER and _DECIMAL.fullmatch(text):
            value = float(text)
        elif self.kind is bool:
            value = {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
        try:
            return self.check(value)
        except InvalidArgument:
            raise InvalidArgument(self.label, _Verbatim(text), self.bound) from None

    def _typed(self, value: object) -> Any:
        if self.kind is bool or self.kind is str:
            return value if isinstance(value, self.kind) else None
        if issubclass(self.kind, StrEnum):
            # By membership, as StrEnum(x) would also take other types that compare equal.
            return self.kind(value) if isinstance(value, str) and value in set(self.kind) else None
        if isinstance(value, bool):
            return None
        if self.kind is int:
            return int(value) if isinstance(value, numbers.Integral) else None
        if not isinstance(value, numbers.Real):
            return None
        try:
            number = float(value)
        except OverflowError:
            return None
        return number + 0.0 if math.isfinite(number) else None  # -0.0 becomes 0.0

    def _within(self, value: Any) -> bool:
        if self.lower is not None and (
            value < self.lower or (self.open_lower and value == self.lower)
        ):
            return False
        return (
            self.upper is None
            or value < self.upper
            or (not self.open_upper and value == self.upper)
        )


class _Verbatim(str):
    """Text that came as text: shown without quotes where it is plain."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self) if self and self.isascii() and self.isprintable() else super().__repr__()
