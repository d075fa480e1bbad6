"""The lines to be copied give what is on the screen."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import urllib3
from playwright.sync_api import Browser, expect

from metalm_proto import wire
from tests.forked import running
from tests.page.browser import Explorer
from tests.page.prefix import prefixed
from tests.service_process import Service

STATES: list[dict[str, Any]] = [
    {"seed": 7},
    {
        "V": 300, "n": 3, "l": 4.5, "e": 0.25, "L": 200, "mask_ratio": 0.5, "profile": "metagym",
        "language": 2, "split": "test", "seed": 18446744073709551615, "index": 5,
    },
    {"V": 12, "L": "0100", "seed": "+07", "index": 1, "e": "1e-1"},
]  # fmt: skip


@pytest.fixture(params=STATES, ids=["first look", "everything", "odd spelling"])
def opened(request: pytest.FixtureRequest, browser: Browser, service: Service) -> Any:
    page = Explorer(browser, service)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.page.goto(
        f"{service.http}/?{'&'.join(f'{k}={v}' for k, v in request.param.items())}".replace(
            "+", "%2B"
        )
    )
    page.shown()
    yield page
    assert page.troubles == []
    page.close()


def copied(page: Explorer, name: str) -> str:
    button = page.page.get_by_role("button", name=f"Copy the {name} lines")
    button.click()
    expect(button).to_have_text("copied")
    text: str = page.page.evaluate("() => navigator.clipboard.readText()")
    expect(button).to_have_text("copy")
    return text


def test_curl(opened: Explorer) -> None:
    command = shlex.split(copied(opened, "curl"))
    assert command[0] == "curl"
    done = subprocess.run([*command, "--silent", "--fail"], capture_output=True)
    assert done.returncode == 0
    told = opened.sample()
    del told["provenance"]
    assert json.loads(done.stdout) == told


def test_what_was_copied_is_said(opened: Explorer) -> None:
    said = opened.page.locator("#snippets [role=status]").first
    expect(said).to_have_text("")
    copied(opened, "curl")
    expect(said).to_have_text("copied")


def test_shell(opened: Explorer) -> None:
    command = shlex.split(copied(opened, "shell"))
    assert command[0] == "metalm"
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["x"], told["digest"]) == (opened.sample()["x"], opened.sample()["digest"])


@pytest.mark.parametrize("name", ["Python", "gym"])
def test_python(opened: Explorer, name: str) -> None:
    given: dict[str, Any] = {}
    exec(copied(opened, name), given)
    told = opened.sample()
    assert np.ravel(given["x"]).tolist() == told["x"]
    assert np.ravel(given["y"]).tolist() == told["y"]


def test_no_line_ends_within_a_flag(opened: Explorer) -> None:
    flags = opened.page.locator("#snippets code span").all_text_contents()
    assert {"-V", "-L", "--seed", "--index", "--url"} <= set(flags)
    for width in (1440, 360):
        opened.page.set_viewport_size({"width": width, "height": 800})
        heights = "flags => flags.map((flag) => flag.getClientRects().length)"
        assert set(opened.page.locator("#snippets code span").evaluate_all(heights)) == {1}


def test_the_address_may_be_of_another_kind(browser: Browser) -> None:
    """An address of IPv6 is copied as it stands, into every language."""
    with running("--host", "::1") as service:
        page = Explorer(browser, service)
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.open(L=50, seed=1)
        told = page.sample()
        assert_all_lines_give(page, told["x"])
        page.close()


def test_behind_a_proxy_that_gives_it_a_path(browser: Browser, service: Service) -> None:
    with prefixed(service, "/it's here") as address:
        page = Explorer(browser, service)
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.page.goto(f"{address}?seed=4&L=300")
        page.shown(seed=4, L=300)
        told = page.sample()
        page.expect_rows(told["x"])
        expect(page.page.locator("#state")).to_have_text("ready")
        assert_all_lines_give(page, told["x"])
        assert all(url.startswith(address) for url in page.requests)
        page.close()


def assert_all_lines_give(page: Explorer, x: list[int]) -> None:
    for name in ("curl", "shell"):
        done = subprocess.run(copied(page, name), shell=True, capture_output=True, env=shell())
        assert json.loads(done.stdout)["x"] == x, done.stderr
    for name in ("Python", "gym"):
        given: dict[str, Any] = {}
        exec(copied(page, name), given)
        assert np.ravel(given["x"]).tolist() == x


def shell() -> dict[str, str]:
    """An environment where `metalm` is this one."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def test_downloads(opened: Explorer, tmp_path: Path) -> None:
    found = {}
    for form in ("text", "npz", "protobuf"):
        with opened.page.expect_download() as coming:
            opened.page.get_by_role("link", name=form, exact=True).click()
        coming.value.save_as(tmp_path / form)
        found[form] = (tmp_path / form).read_bytes()
        link = opened.page.get_by_role("link", name=form, exact=True).get_attribute("href")
        assert found[form] == urllib3.request("GET", link or "").data
    told = opened.sample()
    assert found["text"].decode().split("\t")[0] == f"{told['x'][0]},{told['y'][0]}"
    assert np.load(io.BytesIO(found["npz"]))["x"].ravel().tolist() == told["x"]
    batch = wire.decode_batch(found["protobuf"])
    batch.verify()
    assert batch.y.ravel().tolist() == told["y"]
