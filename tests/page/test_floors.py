"""The curves are what the service says."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import urllib3
from playwright.sync_api import Locator, expect

from tests.page.browser import Explorer

TINY = {"V": 8, "n": 3, "l": 5, "e": 0.1, "L": 512, "seed": 1}


def asked(explorer: Explorer) -> dict[str, Any]:
    """The answer to what the page asked for last."""
    url = [url for url in explorer.requests if "/floors?" in url][-1]
    told: dict[str, Any] = urllib3.request("GET", url).json()
    return told


def computed(explorer: Explorer) -> None:
    expect(explorer.page.locator("#floors")).to_have_attribute(
        "aria-busy", "false", timeout=100_000
    )
    expect(explorer.page.locator("#floors-state")).to_contain_text("nats a token")


def curves(explorer: Explorer) -> dict[str, str]:
    """Names and values beside the chart."""
    items = explorer.page.locator("#curves li").all()
    texts = [
        re.fullmatch(r"(.*?)\s*([\d.]+|\u2013)", item.inner_text(), re.DOTALL) for item in items
    ]
    return {match[1].strip(): match[2] for match in texts if match}


def test_floors_are_those_of_the_spec(explorer: Explorer) -> None:
    explorer.open(**TINY)
    computed(explorer)
    told = asked(explorer)
    assert (told["spec"]["V"], told["seed"], told["split"]) == (8, 0, "test")
    beside = curves(explorer)
    for key, name in (("known", "language known"), ("content-free", "no memory")):
        mean = told["predictors"][key]["plateau"]["mean"][0]
        assert beside[name] == f"{mean:.3f}"
    assert len(beside) in (3, 4)
    assert explorer.page.locator("#chart polyline").count() == len(beside)
    expect(explorer.page.locator("#floors-of")).to_contain_text(f"{told['samples']} samples")


def test_a_bracket_where_it_is_one(explorer: Explorer) -> None:
    explorer.open(V=4, n=6, l=3, e=0.4, L=256, seed=1)
    computed(explorer)
    told = asked(explorer)
    assert told["exact_samples"] < told["samples"]
    genie, greedy = (told["predictors"][key]["plateau"]["mean"][0] for key in ("genie", "greedy"))
    beside = curves(explorer)
    assert beside["Bayes learner, at least"] == f"{genie:.3f}"
    assert beside["Bayes learner, at most"] == f"{greedy:.3f}"
    assert explorer.page.locator("#chart .bracket").get_attribute("points")


def tabulated(explorer: Explorer) -> Locator:
    """The figures as a table, which is filled after it is opened."""
    explorer.page.get_by_text("As a table").click()
    table = explorer.page.locator("#figures")
    expect(table.locator("tbody tr").first).to_be_visible()
    return table


def test_simpler_learners_exposures_and_a_table(explorer: Explorer) -> None:
    explorer.open(**TINY)
    computed(explorer)
    few = len(curves(explorer))
    explorer.page.get_by_text("simpler learners, too").click()
    expect(explorer.page.locator("#curves")).to_contain_text("last copy")
    assert len(curves(explorer)) > few
    explorer.page.get_by_text("by exposure").click()
    expect(explorer.page.locator("#chart")).to_contain_text("times the element was heard before")
    assert (explorer.state["ladder"], explorer.state["by"]) == ("1", "exposure")
    table = tabulated(explorer)
    first = table.locator("tbody tr").first.locator("td").all_inner_texts()
    heads = table.locator("th").all_inner_texts()
    mean = asked(explorer)["predictors"]["vote"]["exposure"]["mean"][0]
    assert first[heads.index("vote of copies")] == f"{mean:.3f}"


def test_a_curve_is_read_by_keyboard(explorer: Explorer) -> None:
    explorer.open(**TINY, by="exposure")
    computed(explorer)
    chart = explorer.page.locator("#chart")
    tail = asked(explorer)["predictors"]["known"]["plateau"]["mean"][0]
    said = re.compile(f"^second half: .*language known {tail:.2f}")
    expect(chart).to_have_attribute("aria-valuetext", said)
    chart.focus()
    explorer.page.keyboard.press("Home")
    explorer.page.keyboard.press("ArrowRight")
    mean = asked(explorer)["predictors"]["known"]["exposure"]["mean"][1]
    expect(chart).to_have_attribute("aria-valuetext", re.compile("exposure 1: .*language known"))
    assert curves(explorer)["language known"] == f"{mean:.3f}"
    assert f"language known {mean:.2f}" in (chart.get_attribute("aria-valuetext") or "")


def test_published_curves_where_the_setting_is_theirs(explorer: Explorer) -> None:
    explorer.open(V=64, n=5, l=32, e=0.1, L=4096, profile="metagym", mask_ratio=0.3, seed=1)
    computed(explorer)
    beside = curves(explorer)
    assert beside["published: Transformer-XL"] == "0.841"
    assert explorer.page.locator("#chart .published circle").count() == 32
    explorer.page.get_by_text("metalm", exact=True).click()
    explorer.shown(profile="metalm")
    computed(explorer)
    assert not any("published" in name for name in curves(explorer))


def test_one_language_is_part_of_the_question(explorer: Explorer) -> None:
    explorer.open(**TINY, language=4)
    computed(explorer)
    url = [url for url in explorer.requests if "/floors?" in url][-1]
    query = parse_qs(urlsplit(url).query)
    assert (query["language"], query["seed"], query["split"]) == (["4"], ["1"], ["train"])


def test_the_page_is_usable_while_floors_are_computed(explorer: Explorer) -> None:
    explorer.open(V=64, n=40, l=64, e=0.1, L=20_000, seed=1)
    expect(explorer.page.locator("#floors-state")).to_have_text("computing…")
    explorer.page.fill("#index", "1")
    explorer.shown(index=1)
    explorer.expect_rows(explorer.sample()["x"])
    # Another sample of the same distribution has the same floors: they were asked for once.
    explorer.page.fill("#L", "600")
    explorer.shown(L=600)
    computed(explorer)
    assert asked(explorer)["spec"]["L"] == 600


def test_long_samples_are_drawn_in_parts_that_can_be_seen(explorer: Explorer) -> None:
    explorer.open(V=64, n=10, l=64, e=0.1, L=20_000, seed=1)
    computed(explorer)
    told = asked(explorer)
    table = tabulated(explorer)
    names = table.locator("tbody tr td:first-child").all_inner_texts()
    bins = told["bins"]["segment"]
    assert len(names) < 40 < len(bins)
    assert names[0] == f"1 to {bins[0]['to']}"
    begin, _, end = names[-1].partition(" to ")
    assert int(end) == 20_000
    # Each is the mean of its tokens.
    means = told["predictors"]["known"]["segment"]["mean"]
    parts = [
        (part["to"] - part["from"], mean)
        for part, mean in zip(bins, means, strict=True)
        if part["from"] >= int(begin) - 1
    ]
    assert len(parts) > 1
    assert parts[-1][0] < parts[0][0]
    mean = sum(size * mean for size, mean in parts) / sum(size for size, _ in parts)
    column = table.locator("th").all_inner_texts().index("language known")
    cells = table.locator("tbody tr").last.locator("td").all_inner_texts()
    assert cells[column] == f"{mean:.3f}"


def test_the_axis_has_few_lines_whatever_the_vocabulary(explorer: Explorer) -> None:
    explorer.open(V=2_147_483_645, n=5, l=10, L=512, seed=1)
    computed(explorer)
    assert 4 <= explorer.page.locator("#chart .axes line:not(.tick)").count() <= 7


def test_who_waits_long_is_told_why(explorer: Explorer) -> None:
    explorer.page.route("**/floors?*", lambda _: None)
    explorer.open(**TINY)
    expect(explorer.page.locator("#floors-state")).to_contain_text("may have to be compiled")


def test_what_costs_too_much_is_said(explorer: Explorer) -> None:
    explorer.open(V=64, n=1000, l=64, L=2_000_000, seed=1)
    expect(explorer.page.locator("#floors-state")).to_contain_text("no floors: ")
