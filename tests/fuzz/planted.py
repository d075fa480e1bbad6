"""The command `metalm` with defects planted in its server, for campaigns to find."""

from __future__ import annotations

import os
import sys
from typing import Any

from metalm.cli import main
from metalm_proto import messages
from metalm_service import handler
from metalm_service.http import formats

_KEPT: list[Any] = []


def plant() -> None:
    """A message whose spec names a language is a defect of gRPC's door, an Accept header of many
    kinds one of HTTP's; both doors leave memory and a descriptor behind for every request."""
    from_message, admit, accepted = (
        messages.spec_from_message,
        handler.Handler.admit,
        formats._accepted,
    )

    def fragile(message: Any) -> Any:
        return from_message(message) if not message.language else 1 / 0

    def leaking(self: handler.Handler, *request: Any, **others: Any) -> Any:
        _KEPT.append((os.open(os.devnull, os.O_RDONLY), b"x" * 2**22))
        return admit(self, *request, **others)

    def choosy(header: str, choices: Any) -> Any:
        return accepted(header, choices) if header.count(",") < 100 else choices[99]

    messages.spec_from_message = fragile
    handler.Handler.admit = leaking  # type: ignore[method-assign]  # planted
    formats._accepted = choosy


if __name__ == "__main__":
    plant()
    sys.exit(main())
