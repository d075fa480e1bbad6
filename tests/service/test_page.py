"""The explorer's files. What a browser makes of them is tested in tests/page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin

import pytest
import urllib3

import metalm_service
from metalm_proto.query import SAMPLE_QUERY
from tests.service_process import Service, running

WEB = Path(metalm_service.__file__).parent / "web"
MOST_BYTES = 150 * 2**10


class Page(HTMLParser):
    """What a page refers to, its inputs, and what its policy would forbid."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.refers: set[str] = set()
        self.inputs: dict[str, dict[str, str | None]] = {}
        self.ids: list[str] = []
        self.inline: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._inside = tag
        self.refers |= {given[name] or "" for name in ("src", "href") if given.get(name)}
        if tag == "input" and "data-default" in given:
            self.inputs[given["name"] or ""] = given
        if "id" in given:
            self.ids.append(given["id"] or "")
        self.inline += [name for name in given if name == "style" or name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style"):
            self.inline.append(data)


def get(
    service: Service, path: str, method: str = "GET", **headers: str
) -> urllib3.BaseHTTPResponse:
    url = urljoin(service.http, path)
    return urllib3.request(method, url, headers=headers, redirect=False, retries=False)


@pytest.fixture(scope="module")
def page(service: Service) -> Page:
    return Page(get(service, "/").data.decode())


def test_it_and_all_that_it_refers_to_are_here(service: Service, page: Page) -> None:
    elsewhere = {"docs", "metrics", "#strip"}
    assert page.refers > elsewhere
    for path in page.refers - elsewhere:
        assert get(service, path).status == 200, path


def test_it_has_nothing_that_its_policy_forbids(page: Page) -> None:
    assert page.inline == []
    for path in WEB.glob("*"):
        # A namespace is a name, not an address.
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"""["'(]https?://[\w.]+""", text), path.name
        assert not re.search(r"\beval\(|new Function|innerHTML|@import", text), path.name


def test_every_module_is_used(page: Page) -> None:
    modules = {path.name for path in WEB.glob("*.js")}
    imported = {
        name
        for path in WEB.glob("*.js")
        for name in re.findall(r"""import\b[^"]*"\./([\w.]+)\"""", path.read_text())
    }
    assert imported == modules - {"start.js"}


def test_it_is_small(service: Service) -> None:
    assert sum(path.stat().st_size for path in WEB.iterdir()) <= MOST_BYTES


def test_no_id_is_there_twice(page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))


def test_bounds_and_defaults_are_those_of_the_fields(service: Service, page: Page) -> None:
    text = get(service, "/").data.decode()
    assert "{{" not in text
    fields = {field.name: field for field in SAMPLE_QUERY}
    assert set(page.inputs) <= set(fields)
    for name, given in page.inputs.items():
        default = fields[name].default
        assert given["data-default"] == ("" if default is None else str(default))
        note = text.partition(f'id="{name}-note"')[2].partition("</p>")[0]
        for bound in (fields[name].lower, fields[name].upper):
            assert str(bound) in note


def test_caches_ask_whether_it_is_the_same_still(service: Service) -> None:
    for path, media_type in (("/", "text/html"), ("/page/app.js", "text/javascript")):
        answer = get(service, path)
        assert answer.headers["Content-Type"] == f"{media_type}; charset=utf-8"
        assert answer.headers["Cache-Control"] == "no-cache"
        etag = answer.headers["ETag"]
        assert not etag.startswith("W/")
        same = get(service, path, **{"If-None-Match": etag})
        assert (same.status, same.data) == (304, b"")
        head = get(service, path, "HEAD")
        assert (head.status, head.data, head.headers["ETag"]) == (200, b"", etag)
        assert int(head.headers["Content-Length"]) == len(answer.data)
    assert get(service, "/").headers["ETag"] != get(service, "/page/app.js").headers["ETag"]


def test_what_is_no_file_of_it_is_not_there(service: Service) -> None:
    for path in ("/page/", "/page/index.html", "/page/nothing.js", "/page/..%2fconfig.py"):
        assert get(service, path).status == 404, path


def test_without_it_the_documents_are_at_the_root() -> None:
    with running("--page", "false") as service:
        answer = get(service, "/")
        assert (answer.status, answer.headers["Location"]) == (307, "docs")
        assert get(service, "/page/app.js").status == 404


def test_it_points_to_nothing_that_is_not_there() -> None:
    with running("--docs", "false", "--admin-port", "0") as service:
        text = get(service, "/").data.decode()
        assert '<a href="docs" hidden>' in text
        assert '<a href="metrics" hidden>' in text
