"""What is on the screen is what the service says."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.page.browser import Explorer, facts

SMALL = {"V": 20, "n": 4, "l": 6, "e": 0.2, "L": 600, "seed": 3, "index": 2, "split": "test"}


def test_the_first_look_is_a_sample_of_the_service(explorer: Explorer) -> None:
    explorer.open()
    explorer.expect_rows(explorer.sample()["x"], rows=12)
    expect(explorer.page.locator("#facts")).to_contain_text(explorer.sample()["digest"])


def test_the_address_is_what_is_shown(explorer: Explorer) -> None:
    explorer.open(**SMALL)
    told = explorer.sample()
    assert (told["seed"], told["index"], told["split"], told["spec"]["V"]) == (3, 2, "test", 20)
    explorer.expect_rows(told["x"])
    for name, value in SMALL.items():
        if name != "split":
            expect(explorer.page.locator(f"#{name}")).to_have_value(str(value))


@pytest.mark.parametrize(
    ("knob", "value"),
    [("V", "11"), ("n", "2"), ("l", "4.5"), ("e", "0.5"), ("L", "777"), ("mask_ratio", "1"),
     ("seed", "18446744073709551615"), ("index", "9"), ("language", "5")],
)  # fmt: skip
def test_a_knob_changes_what_is_shown(explorer: Explorer, knob: str, value: str) -> None:
    explorer.open(**SMALL)
    before = explorer.sample()["digest"]
    explorer.page.fill(f"#{knob}", value)
    explorer.shown(**{knob: value})
    assert explorer.state[knob] == value
    told = explorer.sample()
    assert told["digest"] != before
    explorer.expect_rows(told["x"])
    expect(explorer.page.locator("#facts")).to_contain_text(told["digest"])


def test_choices_change_what_is_shown(explorer: Explorer) -> None:
    explorer.open(**SMALL)
    explorer.page.get_by_text("metagym", exact=True).click()
    explorer.shown(profile="metagym")
    explorer.page.get_by_text("validation", exact=True).click()
    explorer.shown(split="validation")
    told = explorer.sample()
    assert (told["spec"]["profile"], told["split"]) == ("metagym", "validation")
    explorer.expect_rows(told["x"])


def test_sliders_and_steps_turn_the_same_knobs(explorer: Explorer) -> None:
    explorer.open(**SMALL)
    explorer.page.get_by_label("e, error rate").fill("500")
    explorer.shown(e=0.48)
    explorer.page.get_by_label("index, one more").click()
    explorer.shown(index=3)
    explorer.page.get_by_label("language, one more").click()
    explorer.shown(language=0)
    explorer.page.get_by_label("language, one less").click()
    expect(explorer.page.locator("#language")).to_have_value("")
    explorer.page.wait_for_selector('html:not([data-shown*="language"])', state="attached")
    assert "language" not in explorer.state
    explorer.expect_rows(explorer.sample()["x"])


def test_a_setting_turns_all_of_the_spec(explorer: Explorer) -> None:
    explorer.open(**SMALL)
    explorer.page.select_option("#setting", label="10 elements of 32, published")
    explorer.shown(V=64, n=10, l=32, e=0.1, L=4096, profile="metagym", seed=3)
    explorer.page.fill("#n", "11")
    explorer.shown(n=11)
    expect(explorer.page.locator("#setting")).to_have_value("")


def test_an_empty_seed_is_drawn(explorer: Explorer) -> None:
    explorer.open(**SMALL)
    explorer.page.fill("#seed", "")
    explorer.page.locator("#seed").blur()
    expect(explorer.page.locator("#seed")).not_to_have_value("")
    explorer.shown(seed=explorer.page.input_value("#seed"))
    assert 0 <= int(explorer.state["seed"]) < 2**53


def test_back_and_forward(explorer: Explorer) -> None:
    explorer.open(**SMALL)
    for seed in ("30", "31"):
        explorer.page.fill("#seed", seed)
        explorer.page.locator("#seed").blur()
        explorer.shown(seed=seed)
    explorer.page.get_by_text("aligned").click()
    explorer.page.go_back()
    assert "view" not in explorer.state
    for seed in ("30", "3"):
        explorer.page.go_back()
        explorer.shown(seed=seed)
        expect(explorer.page.locator("#seed")).to_have_value(seed)
        explorer.expect_rows(explorer.sample()["x"])
    explorer.page.go_forward()
    explorer.shown(seed=30)
    explorer.expect_rows(explorer.sample()["x"])


def test_turning_a_knob_all_the_way_is_one_step_back(explorer: Explorer) -> None:
    explorer.open(**SMALL)
    explorer.page.locator("#L").select_text()
    explorer.page.keyboard.type("1234", delay=30)
    explorer.page.keyboard.press("Tab")
    explorer.shown(L=1234)
    explorer.page.go_back()
    explorer.shown(L=600)


def test_y_is_what_is_to_be_told(explorer: Explorer) -> None:
    explorer.open(**SMALL)
    explorer.page.get_by_text("y, to be told").click()
    expect(explorer.page.locator("#seen")).to_contain_text(
        "0: " + " ".join(map(str, explorer.sample()["y"][:20]))
    )
    explorer.expect_rows(explorer.sample()["y"])
    assert explorer.state["show"] == "y"
    card = facts(explorer.hover(0, 3))
    provenance = explorer.sample(L=601)["provenance"]
    assert card["token"] == str(explorer.sample()["y"][3])
    if "element" in card:
        assert card["element"] == str(provenance["element"][4])


def test_aligned_rows_are_the_repetitions_of_each_element(explorer: Explorer) -> None:
    explorer.open(**SMALL, view="aligned")
    told = explorer.sample()
    element, offset = told["provenance"]["element"], told["provenance"]["offset"]
    starts = [t for t, at in enumerate(offset) if at == 0]
    ends = dict(zip(starts, [*starts[1:], len(offset)], strict=True))
    order = sorted(starts, key=lambda start: (element[start], start))
    expect(explorer.page.locator("#seen")).to_contain_text(f"{order[0]}: {told['x'][order[0]]}")
    seen = explorer.rows()
    assert len(seen) >= 8
    assert list(seen) == order[: len(seen)]
    for start, row in seen.items():
        assert row == told["x"][start : ends[start]]


def test_provenance_of_every_kind_of_token(explorer: Explorer) -> None:
    explorer.open(**SMALL)
    told = explorer.sample()
    provenance, columns = told["provenance"], explorer.columns()
    lengths = [len(tokens) for tokens in provenance["languages"][0]]
    looked = set()
    for t in range(columns * 12):
        kind = provenance["corruption"][t]
        separator = provenance["offset"][t] == lengths[provenance["element"][t]]
        if (kind, separator) in looked:
            continue
        looked.add((kind, separator))
        card = explorer.hover(t // columns, t % columns)
        expect(card).to_contain_text(f"position{t}")
        said = facts(card)
        assert said["token"] == str(told["x"][t])
        assert said["noise"] == ("kept", "replaced", "masked")[kind]
        assert said["exposure"].split(",")[0] == str(provenance["exposure"][t])
        if separator:
            assert f"separator after element {provenance['element'][t]}" in card.inner_text()
        else:
            assert said["element"] == str(provenance["element"][t])
            assert (
                said["offset"]
                == f"{provenance['offset'][t]} of {lengths[provenance['element'][t]]}"
            )
        if kind:
            clean = (
                told["y"][t - 1] if t else provenance["languages"][0][provenance["element"][0]][0]
            )
            assert said["clean"] == str(clean)
    assert len(looked) == 4


def test_noise_looks_like_noise(explorer: Explorer) -> None:
    """Marked in more than colour: a replaced token and a masked one have lines that a kept one has
    not, in pixels of any lightness."""
    explorer.open(**SMALL)
    corruption = explorer.sample()["provenance"]["corruption"]
    columns = explorer.columns()
    edges = {}
    for kind in (0, 1, 2):
        t = corruption.index(kind, columns)
        at = [GUTTER_X + (t % columns) * 24, 6 + (t // columns) * 24]
        edges[kind] = explorer.page.evaluate(EDGE, at)
    assert edges[1] > edges[0] + 20
    assert edges[2] > edges[0] + 20


GUTTER_X = 58
EDGE = """([x, y]) => {
  const pen = document.querySelector("#strip canvas").getContext("2d");
  const bright = ([r, g, b]) => 0.3 * r + 0.6 * g + 0.1 * b;
  const row = pen.getImageData(x + 1, y + 12, 6, 1).data;
  const lights = [0, 1, 2, 3, 4, 5].map((i) => bright(row.subarray(4 * i, 4 * i + 3)));
  const dashes = pen.getImageData(x + 1, y + 4, 1, 16).data;
  const down = [...Array(16).keys()].map((i) => bright(dashes.subarray(4 * i, 4 * i + 3)));
  return Math.max(...lights, ...down) - Math.min(...lights, ...down);
}"""


def test_by_keyboard_alone(explorer: Explorer) -> None:
    explorer.open(**SMALL)
    strip, told, columns = explorer.page.locator("#strip"), explorer.sample(), explorer.columns()
    strip.focus()
    explorer.page.keyboard.press("Home")
    for key, t in (("ArrowRight", 1), ("ArrowDown", columns + 1), ("ArrowLeft", columns),
                   ("ArrowUp", 0), ("End", 599)):  # fmt: skip
        explorer.page.keyboard.press(key)
        expect(strip).to_have_attribute("aria-valuenow", str(t))
        said = strip.get_attribute("aria-valuetext") or ""
        assert said.startswith(f"position {t}, token {told['x'][t]}")
        expect(explorer.page.locator("#card")).to_contain_text(f"position{t}")
    explorer.page.keyboard.press("Escape")
    expect(explorer.page.locator("#card")).to_be_hidden()


def test_elements_show_where_they_are_spoken(explorer: Explorer) -> None:
    explorer.open(**SMALL)
    provenance = explorer.sample()["provenance"]
    items = explorer.page.locator("#elements button")
    expect(items).to_have_count(4)
    for element, tokens in enumerate(provenance["languages"][0]):
        item = items.nth(element)
        expect(item.locator("code")).to_have_text(" ".join(map(str, tokens)))
        starts = zip(provenance["element"], provenance["offset"], strict=True)
        times = sum((spoken, at) == (element, 0) for spoken, at in starts)
        expect(item).to_contain_text(f"{times} \u00d7" if times else "never")
    spoken = provenance["element"][0]
    items.nth(spoken).click()
    assert explorer.state["element"] == str(spoken)
    expect(items.nth(spoken)).to_have_attribute("aria-pressed", "true")
    items.nth(spoken).click()
    expect(items.nth(spoken)).to_have_attribute("aria-pressed", "false")
    assert "element" not in explorer.state


def test_an_element_is_chosen_by_keyboard(explorer: Explorer) -> None:
    explorer.open(V=20, n=70, l=6, L=600, seed=3)
    items = explorer.page.locator("#elements button")
    items.nth(3).focus()
    for pressed in ("true", "false"):
        explorer.page.keyboard.press("Enter")
        expect(items.nth(3)).to_have_attribute("aria-pressed", pressed)
        expect(items.nth(3)).to_be_focused()
    explorer.page.get_by_role("button", name="10 more").focus()
    explorer.page.keyboard.press("Enter")
    expect(items).to_have_count(70)
    expect(items.nth(60)).to_be_focused()


def test_an_element_that_the_language_does_not_have_is_none(explorer: Explorer) -> None:
    """All would be faded for it, and nothing there to be let go."""
    explorer.open(**SMALL)
    usual = light(explorer)
    for element in ("4", "-1", "length", "0.5"):
        explorer.open(**SMALL, element=element)
        assert light(explorer) == usual
    explorer.open(**{**SMALL, "n": 300}, element="299")
    chosen = explorer.page.locator("#elements [aria-pressed=true]")
    expect(chosen.locator("b")).to_have_text("299")
    chosen.click()
    assert "element" not in explorer.state


def light(explorer: Explorer) -> str:
    explorer.expect_rows(explorer.sample()["x"])
    drawn: str = explorer.page.locator("#strip canvas").evaluate("canvas => canvas.toDataURL()")
    return drawn


def test_a_long_sample_and_a_large_language(explorer: Explorer) -> None:
    explorer.open(V=1024, n=300, l=64, L=100_000, seed=1)
    told = explorer.sample()
    expect(explorer.page.locator("#elements li")).to_have_count(61)
    explorer.page.locator("#strip").focus()
    explorer.page.keyboard.press("End")
    expect(explorer.page.locator("#card")).to_contain_text("position99999")
    expect(explorer.page.locator("#seen")).to_contain_text(f" {told['x'][-1]}")
    # No more of it is on the page than is in view.
    assert explorer.page.locator("#strip canvas").evaluate("canvas => canvas.height") < 1000
    start, row = list(explorer.rows().items())[-1]
    assert start > 99_000
    assert row == told["x"][start:]
