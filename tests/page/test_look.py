"""Light and dark, wide and narrow, seen and read aloud."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.page.browser import DESKTOP, PHONE, Explorer
from tests.page.test_floors import computed
from tests.service_process import Service

AXE = Path(os.environ.get("METALM_AXE", "axe.min.js"))
TABLET = {"width": 1000, "height": 800}
TINY = {"V": 8, "n": 3, "l": 5, "e": 0.1, "L": 512, "seed": 1}


@pytest.mark.parametrize("viewport", [DESKTOP, TABLET, PHONE], ids=["desktop", "tablet", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(
    browser: Browser, service: Service, viewport: dict[str, int], scheme: str
) -> None:
    # The policy of the page lets no script in that is not its own, and so not this one.
    page = Explorer(browser, service, viewport=viewport, color_scheme=scheme, bypass_csp=True)
    page.open(**TINY, ladder=1)
    computed(page)
    page.page.add_script_tag(path=AXE)
    assert violations(page) == []
    page.page.get_by_text("As a table").click()
    page.page.locator("#strip").focus()
    page.page.keyboard.press("ArrowRight")
    if viewport is PHONE:
        page.page.locator("#unfold").click()
    page.page.fill("#V", "1")
    expect(page.page.locator("#V-note")).to_contain_text("must")
    assert violations(page) == []
    page.close()


def violations(page: Explorer) -> list[Any]:
    found = json.loads(page.page.evaluate("() => axe.run().then(JSON.stringify)"))
    assert len(found["passes"]) > 20  # it has looked
    return [
        (one["id"], [node["target"] for node in one["nodes"]], one["nodes"][0]["failureSummary"])
        for one in found["violations"]
    ]


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_moves_by_itself(
    browser: Browser, service: Service, viewport: dict[str, int]
) -> None:
    page = Explorer(browser, service, viewport=viewport)
    page.page.add_init_script(
        "window.moved = []; new PerformanceObserver((list) => list.getEntries().forEach((entry) =>"
        " moved.push([entry.value, ...entry.sources.map((source) => source.node?.id ||"
        " source.node?.outerHTML?.slice(0, 80))])))"
        ".observe({type: 'layout-shift', buffered: true})"
    )
    page.open(**TINY)
    computed(page)
    page.page.mouse.wheel(0, 600)
    page.page.wait_for_timeout(300)
    assert page.page.evaluate("() => moved") == []
    page.close()


def test_dark_where_the_system_is(browser: Browser, service: Service) -> None:
    lights = {}
    for scheme in ("light", "dark"):
        page = Explorer(browser, service, color_scheme=scheme)
        page.open(**TINY)
        lights[scheme] = page.page.evaluate(LIGHTS)
        if scheme == "light":
            page.page.emulate_media(color_scheme="dark")
            page.page.wait_for_function(f"() => ({LIGHTS})()[1] < 60")
        page.close()
    assert min(lights["light"]) > 230
    assert max(lights["dark"]) < 60


LIGHTS = """() => {
  const body = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number);
  const strip = document.querySelector("#strip canvas").getContext("2d").getImageData(30, 2, 1, 1);
  return [body[0], strip.data[0]];
}"""


def test_colours_of_the_readers_own(browser: Browser, service: Service) -> None:
    """Where the page's backgrounds are taken away, what is chosen still looks chosen."""
    page = Explorer(browser, service, forced_colors="active").open(**TINY, element=1)
    for chosen, other in (
        ("#sample [value=x] + span", "#sample [value=y] + span"),
        ("#elements [data-element='1']", "#elements [data-element='0']"),
        ("#elements [data-element='0'] i", "#lexicon h2"),
        (".legend .replaced", "#lexicon h2"),
        (".legend .separator", "#lexicon h2"),
    ):
        assert corner(page, chosen) != corner(page, other)
    page.close()


def corner(page: Explorer, selector: str) -> list[int]:
    """The colour that is seen near the corner of something."""
    picture = page.page.locator(selector).first.screenshot()
    told: list[int] = page.page.evaluate(PIXEL, b64encode(picture).decode())
    return told


PIXEL = """async (picture) => {
  const image = new Image();
  image.src = `data:image/png;base64,${picture}`;
  await image.decode();
  const pen = new OffscreenCanvas(image.width, image.height).getContext("2d");
  pen.drawImage(image, 0, 0);
  return [...pen.getImageData(3, 3, 1, 1).data];
}"""


def test_the_legend_is_of_what_is_drawn(explorer: Explorer) -> None:
    explorer.open(**TINY)
    sizes = "cells => cells.map((cell) => cell.getBoundingClientRect().height)"
    cells = explorer.page.locator(".legend .cell")
    assert min(cells.evaluate_all(sizes)) >= 18
    explorer.page.get_by_text("dots", exact=True).click()
    explorer.page.wait_for_selector("#sample.dots")
    assert max(cells.evaluate_all(sizes)) <= 9


def test_it_fits_a_phone(browser: Browser, service: Service) -> None:
    page = Explorer(browser, service, viewport=PHONE, has_touch=True)
    page.open(**TINY)
    width = "() => document.documentElement.scrollWidth"
    assert page.page.evaluate(width) == PHONE["width"]
    expect(page.page.locator("#V")).to_be_hidden()
    page.page.locator("#unfold").tap()
    page.page.fill("#V", "9")
    page.shown(V=9)
    assert page.page.evaluate(width) == PHONE["width"]
    page.expect_rows(page.sample()["x"])
    box = page.page.locator("#strip").bounding_box()
    assert box is not None
    page.page.locator("#strip").tap(position={"x": 58 + 36, "y": 18})
    expect(page.page.locator("#card")).to_contain_text("position1")
    page.close()


def test_on_a_phone_what_is_wrong_is_not_folded_away(browser: Browser, service: Service) -> None:
    page = Explorer(browser, service, viewport=PHONE)
    page.page.goto(f"{service.http}/?V=1")
    expect(page.page.locator("#V-note")).to_contain_text("must")
    expect(page.page.locator("#V-note")).to_be_visible()
    expect(page.page.locator("#unfold")).to_have_attribute("aria-expanded", "true")
    page.close()


def test_every_control_is_reached_with_the_tab_key(browser: Browser, service: Service) -> None:
    page = Explorer(browser, service)
    page.open(**TINY)
    wanted = {"setting", "V", "L", "seed", "language", "strip", "elements", "chart"}
    reached = set()
    for _ in range(90):
        page.page.keyboard.press("Tab")
        reached.add(page.page.evaluate("() => document.activeElement.id"))
    assert wanted <= reached
    page.close()


def test_the_strip_at_the_foot(browser: Browser, service: Service) -> None:
    page = Explorer(browser, service)
    page.open(**TINY)
    expect(page.page.locator("#state")).to_have_text("ready")
    expect(page.page.locator("#running")).to_have_text("0 of 128")
    refused = page.page.locator("#refused")
    before = refused.inner_text()
    page.page.fill("#e", "7")
    expect(refused).not_to_have_text(before)
    page.page.fill("#e", "0.3")
    expect(page.page.locator("#rate")).not_to_have_text("\u2013")
    page.close()
