from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.page.browser import Explorer, chromium
from tests.service_process import Service


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def explorer(browser: Browser, service: Service) -> Iterator[Explorer]:
    """A page that is not open yet. It complains of nothing, and asks nobody but its service."""
    page = Explorer(browser, service)
    yield page
    assert page.troubles == []
    assert all(url.startswith((service.http, "blob:")) for url in page.requests)
    page.close()
