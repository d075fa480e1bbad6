"""Every error a caller can meet, with its gRPC code and its HTTP status.

    MetaLMError
    ├── InvalidArgument          a field is out of bounds; change the request
    │   ├── LimitExceeded        within the contract, over this server's limits; ask for less
    │   └── UnknownGenerator     this server has no such generator
    ├── Unavailable              nothing was wrong with the request; try again, or elsewhere
    │   ├── Starting             the kernels are not warm yet
    │   ├── Overloaded           requests or bytes in flight are at their limit
    │   ├── Draining             the server is going away
    │   └── Unreachable          no connection to the address
    ├── Unauthenticated          who asks may not, or has not said who it is
    │   └── Untrusted            one side does not take the other's certificate
    ├── DeadlineExceeded         no answer in the time the caller gave
    ├── CorruptBatch             the bytes are not those that were asked for
    └── InternalError            a defect of the service
        └── NotTls               what answers does not speak TLS

The class attributes are the table; nothing else in the project maps an error
to a code or to a status. `reason` is what machines should look at: it is the
same through every door.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import ClassVar

DOMAIN = "metalm"

_LONGEST = 1000
_LONGEST_WAIT_S = 86400.0


class MetaLMError(Exception):
    """Base of all errors. `retryable`: the same request may succeed later or elsewhere."""

    reason: ClassVar[str]
    grpc_code: ClassVar[str]
    http_status: ClassVar[int]
    retryable: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        # It may hold what a server sent, and goes to terminals and logs.
        super().__init__(printable(message))

    def details(self) -> dict[str, str]:
        """What machines may want to know beside the message, as text."""
        return {}


class InvalidArgument(MetaLMError):
    """A field that the contract does not allow.

    Attributes: `field` (its name), `value` (as it was sent, as text), `bound`
    (what would have been right).
    """

    reason = "INVALID_ARGUMENT"
    grpc_code = "INVALID_ARGUMENT"
    http_status = 400

    def __init__(self, field: str, value: object, bound: str) -> None:
        self.field = field
        self.value = _shown(value)
        self.bound = bound
        super().__init__(f"{field} is {self.value}; it must be {bound}")

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuilt, (type(self), str(self), self.details(), None))

    def details(self) -> dict[str, str]:
        return {"field": self.field, "value": self.value, "bound": self.bound}


class LimitExceeded(InvalidArgument):
    """Within the contract, but over a limit of this server; a retry never helps."""

    reason = "LIMIT_EXCEEDED"


class UnknownGenerator(InvalidArgument):
    """The server does not have the generator that was asked for."""

    reason = "UNKNOWN_GENERATOR"
    grpc_code = "NOT_FOUND"
    http_status = 404


class Unavailable(MetaLMError):
    """Not now, or not here. `retry_after_s`: seconds to wait, if the server said so."""

    reason = "UNAVAILABLE"
    grpc_code = "UNAVAILABLE"
    http_status = 503
    retryable = True

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (str(self), self.retry_after_s))


class Starting(Unavailable):
    """The server is up, but its kernels are not warm yet."""

    reason = "STARTING"


class Overloaded(Unavailable):
    """The server has as many requests, or as many bytes in flight, as it may have."""

    reason = "OVERLOADED"


class Draining(Unavailable):
    """The server is shutting down and takes no new requests."""

    reason = "DRAINING"


class Unreachable(Unavailable):
    """There is no connection to the address: nothing was asked of any service."""

    reason = "UNREACHABLE"


class Unauthenticated(MetaLMError):
    """The credentials are missing or wrong; the same ones stay so."""

    reason = "UNAUTHENTICATED"
    grpc_code = "UNAUTHENTICATED"
    http_status = 401


class Untrusted(Unauthenticated):
    """One side does not take the other's certificate, or wants one."""

    reason = "UNTRUSTED"


class DeadlineExceeded(MetaLMError):
    """No complete answer within the time that the caller allowed."""

    reason = "DEADLINE_EXCEEDED"
    grpc_code = "DEADLINE_EXCEEDED"
    http_status = 504
    retryable = True


class CorruptBatch(MetaLMError):
    """A batch whose bytes, digest or identity are not those that were asked for."""

    reason = "CORRUPT_BATCH"
    grpc_code = "DATA_LOSS"
    http_status = 502
    retryable = True


class InternalError(MetaLMError):
    """A defect of the service; its log has the cause."""

    reason = "INTERNAL"
    grpc_code = "INTERNAL"
    http_status = 500


class NotTls(InternalError):
    """What answers at the address does not speak TLS."""

    reason = "NOT_TLS"


ERRORS: tuple[type[MetaLMError], ...] = (
    InvalidArgument,
    LimitExceeded,
    UnknownGenerator,
    Unavailable,
    Starting,
    Overloaded,
    Draining,
    Unreachable,
    Unauthenticated,
    Untrusted,
    DeadlineExceeded,
    CorruptBatch,
    InternalError,
    NotTls,
)

CLIENTS_OWN = (Unreachable, Untrusted, NotTls)
"""Those that no service sends."""
_BY_REASON = {error.reason: error for error in ERRORS}


def from_reason(
    reason: str, message: str, details: Mapping[str, str], retry_after_s: object = None
) -> MetaLMError:
    """Rebuilds the error that a server sent, so that every door raises the same one.

    An unknown reason (a newer server) becomes an `InternalError` with the message kept. What is
    longer than 1000 characters is cut; a `retry_after_s` that is no time to wait is left out.
    """
    kept = {name: one_line(value) for name, value in details.items()}
    cls = _BY_REASON.get(reason, InternalError)
    return _rebuilt(cls, one_line(message), kept, _wait_s(retry_after_s))


def one_line(text: object) -> str:
    """What a server sent, as at most 1000 characters that any terminal and any log can be given."""
    shown = printable(str(text)[: _LONGEST + 1])
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 3]}..."


def printable(text: str) -> str:
    """The text with what does not print, such as ends of lines, in Python's escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _wait_s(told: object) -> float | None:
    if isinstance(told, int | float) and not isinstance(told, bool) and 0 <= told < math.inf:
        return float(min(told, _LONGEST_WAIT_S))
    return None


def _rebuilt(
    cls: type[MetaLMError],
    message: str,
    details: Mapping[str, str],
    retry_after_s: float | None,
) -> MetaLMError:
    if issubclass(cls, Unavailable):
        return cls(message, retry_after_s)
    error = cls.__new__(cls)
    MetaLMError.__init__(error, message)
    if isinstance(error, InvalidArgument):
        error.field = details.get("field", "")
        error.value = details.get("value", "")
        error.bound = details.get("bound", "")
    return error


def _shown(value: object) -> str:
    """A value as one short line without control characters."""
    if isinstance(value, numbers.Number) and hasattr(value, "item"):
        value = value.item()  # numpy's scalars as Python's
    try:
        text = ascii(value)
    except ValueError:  # an int of more digits than Python prints
        text = f"a number of {value.bit_length()} bits" if isinstance(value, int) else "?"
    if not text.isprintable():  # a repr of several lines
        text = ascii(text)
    return text if len(text) <= 80 else f"{text[:77]}..."
