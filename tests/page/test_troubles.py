"""Wrong values, and a service that is away."""

from __future__ import annotations

import signal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import urllib3
from playwright.sync_api import Browser, expect

from tests.page.browser import Explorer
from tests.service_process import Service, running

TOKEN = "alice-0123456789abcdef"


@pytest.mark.parametrize(
    ("knob", "value"),
    [("V", "1"), ("V", "five"), ("l", "0"), ("e", "1"), ("e", "NaN"), ("L", "0"),
     ("L", "17179869184"), ("mask_ratio", "2"), ("seed", "-1"), ("seed", "18446744073709551616"),
     ("index", "1.5"), ("language", "x"), ("n", "99999999")],
)  # fmt: skip
def test_what_is_wrong_is_said_beside_its_knob(explorer: Explorer, knob: str, value: str) -> None:
    explorer.open(seed=5)
    explorer.expect_rows(explorer.sample()["x"])
    before = explorer.rows()
    explorer.page.fill(f"#{knob}", value)
    note = explorer.page.locator(f"#{knob}-note")
    answer = urllib3.request(
        "GET", f"{explorer.service.http}/sample?{knob}={value}&provenance=true"
    )
    assert answer.status == 400
    if answer.json()["reason"] == "INVALID_ARGUMENT":
        expect(note).to_have_text(answer.json()["detail"])
    else:
        expect(note).to_contain_text("this server")
    expect(explorer.page.locator(f"#{knob}")).to_have_attribute("aria-invalid", "true")
    expect(explorer.page.locator("#trouble")).to_be_hidden()
    assert explorer.rows() == before
    explorer.page.fill(f"#{knob}", "0.5" if knob in ("l", "e", "mask_ratio") else "9")
    expect(explorer.page.locator(f"#{knob}")).not_to_have_attribute("aria-invalid", "true")
    expect(note).not_to_contain_text("must")


def test_a_link_may_hold_anything(explorer: Explorer) -> None:
    """What came with a link is text on the page, never more, and never a line to be copied."""
    bad = "1'; <img src=x onerror=alert(1)>"
    explorer.page.goto(f"{explorer.service.http}/?seed={bad}&V=8&view=no&by=no&element=<b>")
    expect(explorer.page.locator("#seed-note")).to_contain_text("seed is")
    assert explorer.page.locator("img[src=x]").count() == 0
    assert "img" not in (explorer.page.locator("#snippets").text_content() or "")


def test_a_service_that_dies_and_comes_back(browser: Browser) -> None:
    with running() as service:
        page = Explorer(browser, service)
        page.open(V=12, L=300, seed=1)
        port = service.port_flag("http")
        service.stop(signal.SIGKILL)
        page.page.fill("#seed", "2")
        expect(page.page.locator("#trouble")).to_contain_text("does not answer")
        expect(page.page.locator("#state")).to_have_text("no answer")
    with running(*port) as service:
        page.shown(seed=2)
        page.expect_rows(page.sample()["x"])
        expect(page.page.locator("#trouble")).to_be_hidden()
        expect(page.page.locator("#state")).to_have_text("ready")
        page.close()


def test_a_service_that_wants_a_token(browser: Browser) -> None:
    with running(METALM_TOKENS=f"alice {TOKEN}") as service:
        page = Explorer(browser, service)
        page.page.goto(service.http)
        field = page.page.get_by_label("This service wants a token")
        field.fill("wrong-0123456789abcdef")
        field.press("Enter")
        expect(page.page.locator("#trouble")).to_contain_text("token")
        field.fill(TOKEN)
        field.press("Enter")
        page.shown()
        expect(field).to_be_hidden()
        expect(page.page.locator("#state")).to_have_text("ready")
        expect(page.page.locator("#snippets")).to_contain_text("METALM_TOKEN")
        # In memory, and nowhere else.
        assert TOKEN not in page.page.content()
        assert TOKEN not in page.page.url
        stored = page.page.evaluate(
            "() => [localStorage.length, sessionStorage.length, document.cookie]"
        )
        assert stored == [0, 0, ""]
        page.close()


def test_metrics_on_a_port_of_their_own(browser: Browser) -> None:
    with running("--admin-port", "0", "--docs", "false") as service:
        page = Explorer(browser, service)
        page.open()
        expect(page.page.locator("#state")).to_have_text("no metrics here")
        expect(page.page.get_by_role("link", name="API")).to_be_hidden()
        page.expect_rows(page.sample()["x"])
        page.close()


class Prefixed(BaseHTTPRequestHandler):
    """Hands what is asked below /some/where on to a service, and nothing else."""

    service = ""

    def do_GET(self) -> None:
        prefix, _, path = self.path.partition("/some/where/")
        if prefix:
            self.send_error(404)
            return
        answer = urllib3.request("GET", f"{self.service}/{path}", redirect=False, retries=False)
        self.send_response(answer.status)
        for name in ("Content-Type", "Content-Security-Policy"):
            self.send_header(name, answer.headers[name])
        self.send_header("Content-Length", str(len(answer.data)))
        self.end_headers()
        self.wfile.write(answer.data)

    def log_message(self, *_: object) -> None:
        pass


def test_behind_a_proxy_that_gives_it_a_path(browser: Browser, service: Service) -> None:
    handler = type("Handler", (Prefixed,), {"service": service.http})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as proxy:
        Thread(target=proxy.serve_forever, daemon=True).start()
        page = Explorer(browser, service)
        address = f"http://127.0.0.1:{proxy.server_port}/some/where/"
        page.page.goto(f"{address}?seed=4&L=300")
        page.shown(seed=4, L=300)
        page.expect_rows(page.sample()["x"])
        expect(page.page.locator("#state")).to_have_text("ready")
        expect(page.page.locator("#snippets code").first).to_contain_text(f"{address}sample?")
        assert all(url.startswith(address) for url in page.requests)
        page.close()
        proxy.shutdown()
