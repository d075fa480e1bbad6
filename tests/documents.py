"""Documents whose code is run."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator

from tests.service_process import Service


def blocks(document: str) -> list[tuple[str, str]]:
    """Language and text of each block of code."""
    return re.findall(r"```(\w+)\n(.*?)```", document, re.DOTALL)


def here(text: str, service: Service) -> str:
    """The addresses of a document, which are the defaults, as this service has them."""
    text = text.replace("http://localhost:8000", service.http)
    return text.replace("grpc://localhost:50051", service.grpc)


def outputs(document: str) -> Iterator[tuple[str, str]]:
    """Runs the Python blocks one after another; what is printed, and the text block below it."""
    shared: dict[str, object] = {}
    printed = ""
    for language, text in blocks(document):
        if language == "python":
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(text, shared)
            printed = output.getvalue()
        elif language == "text":
            yield printed, text
