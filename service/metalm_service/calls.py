"""A call, from its arrival at a door to its end."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

REQUEST_ID = "x-request-id"
"""The header, or metadata, that carries a call's id in and out."""

_USABLE_ID = re.compile(r"[!-~]{1,64}")


@dataclass(frozen=True, slots=True)
class Call:
    """Who asks for what, through which door.

    `door`: "http" or "grpc". `method`: "Sample", "StreamBatches" or "Describe". `client`: whom its
    work is counted for: the name of its token, or the address it comes from. `request_id`: the
    caller's own, or one made up.
    """

    door: str
    method: str
    client: str
    request_id: str


def request_id(given: str | None) -> str:
    """The id that a caller gave, or a new one if there is none or it is not fit for a log line."""
    if given is not None and _USABLE_ID.fullmatch(given):
        return given
    return uuid.uuid4().hex
