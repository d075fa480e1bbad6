"""What one request may be, whatever else is going on: the same request is always refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from metalm_proto.description import Reach
from metalm_proto.errors import InvalidArgument, LimitExceeded
from metalm_proto.spec import SPEC_FIELDS, BatchRequest, Spec
from metalm_service.config import COPIES, COPIES_TOGETHER, ServerConfig
from metalm_service.core import engine

_FIELDS = {field.name: field for field in SPEC_FIELDS}


@dataclass(frozen=True, slots=True)
class Encoding:
    """What a form of the answer costs: bytes of memory for each byte of arrays, nanoseconds of a
    core for each token, and whether Python can do nothing else meanwhile; up to how many bytes of
    arrays batches may be made in one turn."""

    bytes_a_byte: int = 1
    ns_a_token: int = 1
    holds_the_interpreter: bool = False
    together_bytes: int = 0


PLAIN = Encoding()
"""The wire's own, batch by batch."""
TOGETHER = Encoding(together_bytes=2**20)
"""The wire's own, small batches together: a thread is woken for its turn, and a reader for a write,
once for all of them."""

_TOGETHER_S = 0.01
"""How long batches may take together, as estimated: others wait for their turn meanwhile."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a request gets: bytes of memory that are reserved for it, and how many of its batches
    are made in one turn."""

    reserved_bytes: int
    batches_in_turn: int


def check(config: ServerConfig, request: BatchRequest, encoding: Encoding = PLAIN) -> Allowance:
    """What a request needs. Raises LimitExceeded for one that is over a limit of this server.
    Nothing of it is allocated."""
    cost = engine.cost_of(request)
    message_bytes = encoding.bytes_a_byte * cost.batch_bytes
    cpu_s = cost.cpu_s + cost.tokens * encoding.ns_a_token * 1e-9
    reserved_bytes = COPIES * message_bytes + cost.scratch_bytes
    _check_size(config, request, message_bytes, reserved_bytes)
    _check_cpu(config, request, cpu_s)
    if request.provenance or not encoding.together_bytes:
        return Allowance(reserved_bytes, 1)
    # No more than what each of all requests can have: there is room for as many as there are
    # places.
    share = config.max_inflight_bytes // config.max_requests - cost.scratch_bytes - message_bytes
    together_bytes = min(
        encoding.together_bytes, config.max_message_bytes, max(0, share) // COPIES_TOGETHER
    )
    in_time = int(_TOGETHER_S * request.count / cpu_s)
    together = max(1, min(together_bytes // message_bytes, in_time, request.count))
    copies = COPIES_TOGETHER * together + 1
    return Allowance(copies * message_bytes + cost.scratch_bytes, together)


def reach(config: ServerConfig, spec: Spec) -> Reach:
    """How far each parameter of a spec may go on this server."""

    def fits(name: str, value: int) -> bool:
        changed: dict[str, Any] = {name: value}
        try:
            asked = replace(spec, **changed)
            check(config, BatchRequest.single(spec=asked, seed=0, provenance=True))
        except InvalidArgument:
            return False
        return True

    return Reach(**{field.name: _most(spec, field.name, fits) for field in fields(Reach)})


def _most(spec: Spec, name: str, fits: Callable[[str, int], bool]) -> int:
    bounds, own = _FIELDS[name], int(getattr(spec, name))
    most = int(bounds.upper or 0)
    if fits(name, most):
        return most
    # Less of one parameter may cost more of another kind: what is there already is no doubt.
    least = own if own and fits(name, own) else 0
    while most - least > 1:
        middle = (least + most) // 2
        if fits(name, middle):
            least = middle
        else:
            most = middle
    return least


def _check_size(
    config: ServerConfig, request: BatchRequest, message_bytes: int, reserved: int
) -> None:
    if request.samples > config.max_request_samples:
        bound = f"at most {config.max_request_samples} in one request to this server"
        raise LimitExceeded("samples", request.samples, bound)
    if message_bytes > config.max_message_bytes:
        bound = (
            f"smaller (or L, n or provenance): a batch would take {message_bytes} bytes and "
            f"this server sends at most {config.max_message_bytes}"
        )
        raise LimitExceeded("batch_size", request.largest_batch, bound)
    if reserved > config.max_inflight_bytes:
        bound = (
            f"smaller (or n): the request would need {reserved} bytes of memory and this "
            f"server gives all requests {config.max_inflight_bytes}"
        )
        raise LimitExceeded("L", request.spec.L, bound)


def _check_cpu(config: ServerConfig, request: BatchRequest, cpu_s: float) -> None:
    most_s = config.max_request_cpu_s
    if cpu_s > most_s:
        bound = (
            f"fewer (or L, n, l or provenance less): the request would cost {cpu_s:.3g} "
            f"seconds of a core and this server gives at most {most_s} to one"
        )
        raise LimitExceeded("samples", request.samples, bound)
