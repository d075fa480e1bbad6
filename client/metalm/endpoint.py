"""One address of a service."""

from __future__ import annotations

from dataclasses import dataclass, field

from metalm.transports.base import Transport
from metalm_proto.fields import U64
from metalm_proto.spec import Spec

Kind = tuple[Spec, int, bool]
"""Spec, batch size and provenance: what a server's limits of a request depend on."""


@dataclass(eq=False, slots=True)
class Endpoint:
    """One address of a service, its connections, and what is known of it.

    `Endpoints` makes it, closes its transport, and has the lock of all that changes here.
    """

    name: str
    transport: Transport
    in_flight: int = 0
    failures: int = 0
    """In a row; 0: it is well, or was never tried."""
    failed_at: float = 0.0
    """The last time, on the monotonic clock."""
    due: float = 0.0
    """When it may be tried again, on the monotonic clock."""
    said: str = "was not tried"
    max_batches: int = U64
    """In one request of any kind."""
    taken: dict[Kind, int] = field(default_factory=dict)
    """Batches in one request of a kind, where it has refused more."""
    known: bool = False
    """Somebody was ever there: more was heard of it than that nobody is."""
    leaving: bool = False
    """No longer an address of its host."""
