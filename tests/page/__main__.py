"""Measures the explorer in Chromium, and takes its pictures: `make page-test PAGE_ARGS=--measure`.

    python -m tests.page [FOLDER]

With a folder, pictures are written there: the README's, light, dark, phone. Needs a quiet machine for figures
that mean something; no test depends on them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median
from typing import Any

from playwright.sync_api import Browser

import metalm_service
from tests.page.browser import DESKTOP, PHONE, Explorer, chromium
from tests.service_process import Service, running

TIMES = 15
SPEC = {"V": 64, "n": 10, "l": 64, "e": 0.1, "seed": 7}
PICTURES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "explorer": ({"viewport": {"width": 1440, "height": 1160}}, {}),
    "light": ({"viewport": DESKTOP}, {}),
    "dark": ({"viewport": DESKTOP, "color_scheme": "dark"}, {"view": "aligned", "by": "exposure"}),
    "phone": ({"viewport": PHONE, "device_scale_factor": 2}, {}),
}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    web = Path(metalm_service.__file__).parent / "web"
    size = sum(path.stat().st_size for path in web.iterdir())
    print(f"files of the page: {size / 2**10:.0f} KiB")
    with running() as service, chromium() as browser:
        told("first paint", first_paints(browser, service), "from the navigation's start")
        for length in (4096, 100_000):
            samples, views = changes(browser, service, length)
            told(f"L={length}: a knob's change shown", samples, "asked, generated, drawn")
            told(f"L={length}: x or y, flow or aligned", views, "drawn")
        if folder is not None:
            pictures(browser, service, folder)


def told(what: str, times: list[float], how: str) -> None:
    print(f"{what}: median {median(times):.0f} ms, longest {max(times):.0f} ms ({how})")


def first_paints(browser: Browser, service: Service) -> list[float]:
    """Milliseconds; each time a browser that knows nothing of the page."""
    found = []
    for _ in range(TIMES + 1):
        page = Explorer(browser, service)
        page.open()
        entries = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
        found.append(float(page.page.evaluate(entries)))
        page.close()
    # The first of a process has the browser's own beginnings in it.
    return found[1:]


def changes(browser: Browser, service: Service, length: int) -> tuple[list[float], list[float]]:
    """Milliseconds from a knob's being turned to the frame that shows it, and from a choice of
    what is shown."""
    page = Explorer(browser, service).open(**SPEC, L=length)
    samples, views = [], []
    for k in range(TIMES):
        page.page.fill("#e", f"0.{11 + k}")
        page.shown(e=f"0.{11 + k}")
        samples.append(float(page.page.evaluate(MEASURED)))
        choice = ("y", "aligned", "x", "flow")[k % 4]
        views.append(float(page.page.evaluate(CHOSEN, choice)))
    page.close()
    return samples, views


MEASURED = "() => performance.getEntriesByName('change to shown').at(-1).duration"
CHOSEN = """(value) => new Promise((done) => {
  const begun = performance.now();
  document.querySelector(`#sample input[value=${value}]`).click();
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - begun)));
})"""


def pictures(browser: Browser, service: Service, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (context, state) in PICTURES.items():
        page = Explorer(browser, service, **context)
        page.open(**state)
        page.page.wait_for_selector("#floors[aria-busy=false]", timeout=100_000)
        page.page.screenshot(path=folder / f"{name}.png", full_page=name == "phone")
        page.close()


if __name__ == "__main__":
    main()
