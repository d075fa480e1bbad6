"""Wrong values, and a service that is away."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
import urllib3
from playwright.sync_api import Browser, Route, expect

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


def test_knobs_reach_as_far_as_this_service_does(browser: Browser) -> None:
    """Within the bounds of every service its own limits, as it describes them."""
    with running("--max-message-bytes", "65536") as service:
        page = Explorer(browser, service).open(V=32, n=5, l=10, L=1024, seed=7)
        note, slider = page.page.locator("#L-note"), page.page.get_by_label("L, tokens in a sample")
        reach = page.described()["reach"]
        expect(note).to_have_text(f"1 \u2264 L \u2264 {reach['L']} on this server")
        slider.fill("1000")
        page.shown(L=reach["L"])
        # Where another knob stands it may go less far.
        page.page.fill("#n", "200")
        more = "this server sends at most 65536"
        expect(page.page.locator("#n-note")).to_contain_text(more)
        expect(page.page.locator("#L-note")).not_to_contain_text(more)
        slider.fill("400")
        page.shown(n=200)
        reach = page.described()["reach"]
        expect(note).to_have_text(f"1 \u2264 L \u2264 {reach['L']} on this server")
        page.page.get_by_label("n, elements").fill("1000")
        page.page.fill("#L", str(page.described()["reach"]["L"] + 1))
        expect(note).to_contain_text(more)
        page.close()


def test_nobody_is_asked_where_nobody_looks(browser: Browser) -> None:
    with running() as service:
        page = Explorer(browser, service).open(V=12, L=300, seed=1)
        port = service.port_flag("http")
        service.stop(signal.SIGKILL)
        page.page.fill("#seed", "2")
        expect(page.page.locator("#trouble")).to_contain_text("does not answer")
        page.page.evaluate(f"({LOOKED_AT})(false)")
        # Whoever had begun to ask has asked.
        page.page.wait_for_timeout(1000)
        before = len(page.requests)
        # Longer than it ever waits.
        page.page.wait_for_timeout(6000)
        assert len(page.requests) == before
    with running(*port):
        page.page.evaluate(f"({LOOKED_AT})(true)")
        page.shown(seed=2)
        expect(page.page.locator("#trouble")).to_be_hidden()
        page.close()


LOOKED_AT = """(seen) => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => !seen });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_a_page_of_another_version(explorer: Explorer) -> None:
    """It goes on, and says that the service has another page."""
    explorer.page.route("**/?seed=1*", older, times=1)
    explorer.open(seed=1)
    version = explorer.page.locator("#version")
    expect(version).not_to_have_text("0.0.1")
    explorer.page.get_by_role("link", name="reload").click()
    expect(explorer.page.locator("#state")).to_have_text("ready")
    expect(explorer.page.locator("#renew")).to_be_hidden()
    assert explorer.state["seed"] == "1"


def older(route: Route) -> None:
    answer = route.fetch()
    told = re.sub('id="version">[^<]+', 'id="version">0.0.1', answer.text())
    route.fulfill(response=answer, body=told)


def test_a_password_in_the_address_is_not_repeated(browser: Browser, service: Service) -> None:
    page = Explorer(browser, service)
    place = service.http.removeprefix("http://")
    page.page.goto(f"http://me:secret@{place}/?seed=4&L=300")
    page.shown(seed=4)
    page.expect_rows(page.sample()["x"])
    assert "secret" not in page.page.content()
    page.close()


def test_a_link_may_hold_anything(explorer: Explorer) -> None:
    """What came with a link is text on the page, never more, and never a line to be copied."""
    bad = "1'; <img src=x onerror=alert(1)>"
    explorer.page.goto(f"{explorer.service.http}/?seed={bad}&V=8&view=no&by=no&element=<b>")
    expect(explorer.page.locator("#seed-note")).to_contain_text("seed is")
    assert explorer.page.locator("img[src=x]").count() == 0
    assert "img" not in (explorer.page.locator("#snippets").text_content() or "")
    # What there is no choice of is as usual.
    expect(explorer.page.get_by_label("as it comes")).to_be_checked()
    expect(explorer.page.get_by_label("by position")).to_be_checked()


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


def test_a_service_that_has_no_room(browser: Browser) -> None:
    with running("--max-requests", "1", "--stall-timeout-s", "600") as service:
        page = Explorer(browser, service).open(V=12, L=300, seed=1)
        # More than the system holds for a reader that does not read.
        url = f"{service.http}/batches?L=65536&seed=1&stop=1000"
        stream = urllib3.request("GET", url, preload_content=False, retries=False)
        assert stream.status == 200
        page.page.fill("#seed", "2")
        expect(page.page.locator("#trouble")).to_contain_text("it is asked again")
        # What was there before stays.
        expect(page.page.locator("#facts")).to_contain_text("300 tokens")
        stream.close()
        page.shown(seed=2)
        page.expect_rows(page.sample()["x"])
        expect(page.page.locator("#trouble")).to_be_hidden()
        page.close()


def test_a_token_that_is_good_no_more(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"alice {TOKEN}\n")
    with running("--token-file", str(file)) as service:
        page = Explorer(browser, service)
        page.page.goto(service.http)
        field = page.page.get_by_label("This service wants a token")
        field.fill(TOKEN)
        field.press("Enter")
        page.shown()
        file.write_text("alice another-0123456789abcdef\n")
        page.page.fill("#seed", "12")
        expect(page.page.locator("#trouble")).to_contain_text("token")
        field.fill("another-0123456789abcdef")
        field.press("Enter")
        page.shown(seed=12)
        expect(field).to_be_hidden()
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
