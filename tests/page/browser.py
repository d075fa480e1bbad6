"""A real Chromium, and the explorer in it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import urllib3
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from metalm_proto.spec import SPEC_FIELDS
from tests.service_process import Service

FLAGS = (
    "--no-sandbox",  # root has none
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    # It would look up its maker's hosts.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESKTOP = {"width": 1440, "height": 1000}
PHONE = {"width": 360, "height": 740}
GUTTER, CELL = 58, 24
"""Pixels left of the tokens, and of a token of one or two digits."""
WAIT_MS = 20_000


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=list(FLAGS)
        )
        try:
            yield browser
        finally:
            browser.close()


class Explorer:
    """A page with the explorer of a service. `troubles`: what its console, its scripts and its
    policy complained of; `requests`: what it asked for."""

    def __init__(self, browser: Browser, service: Service, **context: Any) -> None:
        self.service = service
        self.context = browser.new_context(**{"viewport": DESKTOP, **context})
        self.context.set_default_timeout(WAIT_MS)
        expect.set_options(timeout=WAIT_MS)
        self.page: Page = self.context.new_page()
        self.troubles: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("console", lambda message: self._heard(message.type, message.text))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def _heard(self, kind: str, text: str) -> None:
        # The browser's own words on an answer that is no success: the page says it itself.
        if kind == "error" and "Failed to load resource" not in text:
            self.troubles.append(text)

    def open(self, **state: object) -> Explorer:
        query = f"?{urlencode(state)}" if state else ""
        self.page.goto(f"{self.service.http}/{query}")
        return self.shown(**state)

    def shown(self, **state: object) -> Explorer:
        """Waits until a sample of this state is on the screen."""
        asked = {name: text for name, text in state.items() if name not in VIEW}
        where = "".join(f'[data-shown*="{name}={value}"]' for name, value in asked.items())
        self.page.wait_for_selector(f"html{where or '[data-shown]'}", state="attached")
        expect(self.page.locator("#sample")).to_have_attribute("aria-busy", "false")
        return self

    @property
    def state(self) -> dict[str, str]:
        """What the address has."""
        return {name: value[0] for name, value in parse_qs(urlsplit(self.page.url).query).items()}

    def sample(self, **others: object) -> dict[str, Any]:
        """What the service says of what the address has."""
        asked = {name: text for name, text in self.state.items() if name not in VIEW}
        query = urlencode({**asked, "provenance": "true", **others})
        answer = urllib3.request("GET", f"{self.service.http}/sample?{query}", retries=False)
        assert answer.status == 200, answer.data
        told: dict[str, Any] = answer.json()
        return told

    def described(self) -> dict[str, Any]:
        """What the service says of the spec that the address has."""
        asked = {name: text for name, text in self.state.items() if name in SPEC}
        told: dict[str, Any] = urllib3.request(
            "GET", f"{self.service.http}/describe?{urlencode(asked)}"
        ).json()
        return told

    def rows(self) -> dict[int, list[int]]:
        """The rows that were drawn last: the position where each begins, and its tokens."""
        text = self.page.locator("#seen").text_content() or ""
        return {
            int(start): [int(token) for token in tokens.split()]
            for start, tokens in re.findall(r"^(\d+): ([\d ]+)$", text, re.MULTILINE)
        }

    def expect_rows(self, tokens: list[int], rows: int = 4) -> None:
        """Waits until the first rows in view are such tokens in their order."""
        columns = self.columns()
        first = " ".join(map(str, tokens[:columns]))
        expect(self.page.locator("#seen")).to_contain_text(f"0: {first}")
        seen = self.rows()
        assert len(seen) >= rows
        for start, row in seen.items():
            assert row == tokens[start : start + columns]

    def columns(self) -> int:
        width: int = self.page.locator("#strip").evaluate("strip => strip.clientWidth")
        return (width - GUTTER) // CELL

    def hover(self, row: int, column: int) -> Locator:
        """Points at a cell of those in view; what is said of it."""
        box = self.page.locator("#strip").bounding_box()
        assert box is not None
        x, y = GUTTER + (column + 0.5) * CELL, 6 + (row + 0.5) * CELL
        self.page.mouse.move(box["x"] + x, box["y"] + y)
        return self.page.locator("#card")

    def close(self) -> None:
        self.context.close()


SPEC = {field.name for field in SPEC_FIELDS}
VIEW = {"show", "view", "cells", "element", "by", "ladder"}


def facts(card: Locator) -> dict[str, str]:
    """What a card says, by name."""
    lines = card.locator("p").all()
    names = [line.locator("span").inner_text() for line in lines]
    texts = [line.inner_text() for line in lines]
    return {name: text.removeprefix(name).strip() for name, text in zip(names, texts, strict=True)}
