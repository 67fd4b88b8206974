"""Both pages in a browser: mouse, keyboard, touch, both themes, hostile text, many tokens."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.browser import browser, complaints, resize, wide

from opsd.inspect.page import page
from opsd.inspect.rows import Traced
from opsd.preview.page import preview_page

from .folders import HOSTILE, old_row, pair, reader, row
from .test_page import preview_content

HEBREW = ["שלום", " ", "עולם", " 12", "."]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def visit(driver: Any, tmp_path: Path) -> Iterator[Any]:
    """Opens a page about traces; in the end the page has complained of nothing."""

    def open_(*rows: dict[str, Any], html: str = "", width: int = 1200) -> Any:
        path = tmp_path / "page.html"
        path.write_text(html or page([Traced(r.get("run", "run"), r) for r in rows]), "utf-8")
        resize(driver, width)
        driver.get(path.as_uri())
        return driver

    yield open_
    assert complaints(driver) == []


def keys(driver: Any, *names: str) -> None:
    from selenium.webdriver import ActionChains, Keys

    for name in names:
        ActionChains(driver).send_keys(getattr(Keys, name, name)).perform()


def cells(driver: Any, card: int = 0) -> list[Any]:
    """The drawn tokens of a card, which are drawn when it comes near."""
    cards = driver.find_elements("css selector", ".card .text")
    driver.execute_script("arguments[0].scrollIntoView()", cards[card])
    for _ in range(3000):
        found = cards[card].find_elements("css selector", ".t")
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("no token was drawn")


def said(driver: Any) -> str:
    return driver.find_element("id", "said").text


def chosen(driver: Any) -> int:
    """The position of the token that has the focus."""
    return int(driver.switch_to.active_element.get_attribute("data-at"))


def choose(driver: Any, control: str, label: str) -> None:
    from selenium.webdriver.support.select import Select

    Select(driver.find_element("id", control)).select_by_visible_text(label)


def classes(driver: Any) -> list[str]:
    return [cell.get_attribute("class") for cell in cells(driver)]


def theme(driver: Any, name: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": name}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def test_tokens_flow_as_text_and_the_mouse_reads_them(visit):
    from selenium.webdriver import ActionChains

    driver = visit(row(tokens=["Jibu", " ni", " 24", ".\n", "Ndiyo"]))
    drawn = cells(driver)
    text = driver.execute_script("return document.querySelector('.text').textContent")
    assert text == "Jibu ni 24.\nNdiyo"
    assert drawn[4].location["y"] > drawn[0].location["y"]
    ActionChains(driver).move_to_element(drawn[2]).perform()
    assert "24" in said(driver) and "token 3 of 5" in said(driver)
    assert "0.6 nats" in said(driver)
    readers = driver.find_elements("css selector", ".reader")
    assert [r.find_element("tag name", "h3").text for r in readers] == [
        "student",
        "solution (frozen)",
        "target",
    ]
    assert "this token 74.1%, entropy 0.52 nats" in readers[0].text
    likeliest = readers[0].find_element("css selector", "li.same")
    assert likeliest.text.split() == ["24", "75.0%"]
    drawn[1].click()
    ActionChains(driver).move_to_element(drawn[4]).perform()
    assert "token 5" in said(driver)
    ActionChains(driver).move_to_element(driver.find_element("tag name", "h1")).perform()
    assert "token 2" in said(driver), "what was clicked stays"


def test_the_keyboard_goes_everywhere(visit):
    words = [f" word{i}" for i in range(60)]
    driver = visit(row(tokens=words))
    cells(driver)
    # Where the first of all tabs goes is the browser's affair.
    driver.execute_script("document.querySelector('.skip').focus()")
    keys(driver, "TAB", "TAB")  # past the choice of a colour
    assert chosen(driver) == 3 and "token 4 of 60" in said(driver)  # the strongest one
    keys(driver, "HOME")
    assert chosen(driver) == 0 and "token 1 of 60" in said(driver)
    keys(driver, "ARROW_RIGHT", "ARROW_RIGHT", "ARROW_LEFT")
    assert chosen(driver) == 1 and "token 2 of 60" in said(driver)
    keys(driver, "ARROW_DOWN")
    below = chosen(driver)
    assert below > 3
    keys(driver, "ARROW_UP")
    assert chosen(driver) == 1
    keys(driver, "END")
    assert chosen(driver) == 59
    keys(driver, "HOME", "n")
    assert chosen(driver) == 1  # 0.3 of at most 0.9 nats: the fifth of eight shades
    keys(driver, "n", "n", "p")
    assert chosen(driver) == 2
    keys(driver, "ESCAPE")
    assert driver.switch_to.active_element.tag_name == "body"


def test_the_strongest_token_is_chosen_from_the_start(visit):
    weak, strong = row(), row(problem="other")
    strong["signals"][0]["pairs"][0]["divergence"][1] = 7.5
    driver = visit(weak, strong)
    (marked,) = driver.find_elements("css selector", ".t[aria-current]")
    cards = driver.find_elements("css selector", ".card .text")
    assert marked.get_attribute("data-at") == "1" and "7.5 nats" in said(driver)
    assert [len(c.find_elements("css selector", "[aria-current]")) for c in cards] == [0, 1]


def test_signals_are_switched_by_keyboard_and_by_mouse(visit):
    driver = visit(row())
    assert classes(driver)[:4] == ["t l0 outside", "t l5", "t l7 clipped", "t l8 clipped"]
    driver.find_element("id", "measure").send_keys("question")
    assert "question" in driver.execute_script("return byId('measure').value")
    choose(driver, "measure", "log-ratio, teacher and student (student → solution)")
    assert classes(driver)[:5] == ["t n8 outside", "t n6", "t l0 clipped", "t l6 clipped", "t l8"]
    legend = driver.find_element("id", "legend").text
    assert "−0.6" in legend and "0.6 nats" in legend and "blue: less" in legend
    choose(driver, "measure", "after clipping")
    assert classes(driver)[3] == "t l8 clipped"


def test_a_token_shows_its_clip_and_its_parts(visit):
    driver = visit(row())
    cells(driver)[3].click()
    told = driver.find_element("id", "numbers").text
    for line in ("after purification\n0.45 nats", "after clipping\n0.2 nats", "a clip acted here"):
        assert line in told
    cells(driver)[0].click()
    assert "in no loss" in driver.find_element("id", "numbers").text


def test_old_traces_are_shown_as_far_as_they_go(visit):
    driver = visit(old_row())
    assert [cell.text for cell in cells(driver)] == ["Ji", "\ufffd", "bu"]
    cells(driver)[2].click()
    assert "teacher and student: 0.3 nats" in said(driver)


def state(number: int, masked: list[bool]) -> dict[str, Any]:
    """A state of a denoising: what is masked is taught, the rest has no values."""
    made = row(tokens=["3", " +", " 4", "."], state=number, masked=masked)
    for part in (*made["readers"], *made["signals"], *made["signals"][0]["pairs"]):
        for name, values in part.items():
            if isinstance(values, list) and name != "pairs":
                blank = [] if name == "top" else None
                part[name] = [v if m else blank for v, m in zip(values, masked, strict=True)]
    own = made["signals"][0]["columns"]
    for name, values in own.items():
        own[name] = [v if m else None for v, m in zip(values, masked, strict=True)]
    return made


def test_a_denoising_is_gone_through_state_by_state(visit):
    driver = visit(state(2, [False, False, True, False]), state(0, [True, True, True, True]))
    assert driver.find_element("id", "count").text.startswith("1 of 1 rollouts, 4 tokens")
    (slider,) = driver.find_elements("css selector", ".state input")
    told = driver.find_element("css selector", ".state output")
    assert told.text == "step 1 of writing, 4 tokens to come"
    assert all("masked" in name for name in classes(driver))
    cells(driver)[0].click()
    assert "this token 74.1%" in driver.find_element("css selector", ".reader").text
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", slider)
    slider.click()
    slider.send_keys("\ue014")  # the right arrow
    assert told.text == "step 3 of writing, 1 token to come"
    assert [("masked" in name, "outside" in name) for name in classes(driver)] == [
        (False, False),
        (False, False),
        (True, False),
        (False, False),
    ]
    cells(driver)[0].click()
    assert "not taught here" in driver.find_element("css selector", ".reader").text
    cells(driver)[2].click()
    assert "still to come in this state" in driver.find_element("id", "numbers").text


def test_filters_and_columns(visit):
    rows = [row(step, problem) for step in (0, 6) for problem in ("p1", "p2")]
    rows.append(row(6, "p3", language="yor"))
    driver = visit(*rows)
    columns = driver.find_elements("css selector", ".columns")
    assert [len(c.find_elements("css selector", ".card")) for c in columns] == [2, 2, 1]
    one, other = columns[0].find_elements("css selector", ".card")
    assert one.location["y"] == other.location["y"] and one.location["x"] < other.location["x"]
    assert "✗ wrong" in one.text and "✓ right" in other.text
    assert "step 1" in one.text and "step 7" in other.text and "reward 1" in other.text
    choose(driver, "correct", "right")
    choose(driver, "language", "Swahili")
    assert "2 of 5 rollouts, 12 tokens." in driver.find_element("id", "count").text
    choose(driver, "step", "1")
    assert "No rollout is like that." in driver.find_element("id", "count").text
    choose(driver, "correct", "all")
    choose(driver, "order", "one below the other")
    assert len(driver.find_elements("css selector", ".problem")) == 2


def test_every_control_has_a_name(visit):
    driver = visit(row(0), row(2, language="yor"), {**row(2), "run": "other"})
    for select in driver.find_elements("tag name", "select"):
        assert select.accessible_name.strip() and select.is_displayed()
    assert cells(driver)[0].find_element("xpath", "..").accessible_name.startswith("Completion")
    assert driver.find_element("id", "said").get_attribute("aria-live") == "polite"


def test_right_to_left_text_reads_and_moves_so(visit):
    driver = visit(row(tokens=HEBREW, language="heb"))
    drawn = cells(driver)
    assert drawn[0].location["x"] > drawn[2].location["x"]
    drawn[0].click()
    keys(driver, "ARROW_LEFT")
    assert chosen(driver) == 1
    keys(driver, "ARROW_RIGHT")
    assert chosen(driver) == 0


def test_a_character_of_several_tokens_is_one_cell(visit):
    driver = visit(row(tokens=["ዋ", "", "", "ጋ"]))
    assert [cell.text for cell in cells(driver)] == ["ዋ", "ጋ"]
    cells(driver)[0].click()
    keys(driver, "ARROW_RIGHT")
    assert "token 2 of 4" in said(driver) and "further token" in said(driver)
    keys(driver, "ARROW_RIGHT", "ARROW_RIGHT")
    assert "token 4 of 4" in said(driver)


@pytest.mark.parametrize("width", [1200, 390])
def test_hostile_output_stays_text(visit, width: int):
    hostile = row(tokens=HOSTILE, question="".join(HOSTILE), prompt="".join(HOSTILE))
    driver = visit(hostile, width=width)
    driver.find_element("css selector", "summary").click()
    cells(driver)[0].click()
    assert driver.title.startswith("Token by token")
    assert driver.find_elements("tag name", "img") == []
    assert len(driver.find_elements("tag name", "script")) == 2
    assert "<script>" in cells(driver)[0].text
    assert [mark.text for mark in cells(driver)[2].find_elements("class name", "unseen")] == [
        "U+202E",
        "U+202C",
    ]
    assert cells(driver)[5].text == "U+D800"
    assert not wide(driver)


def test_a_tap_opens_the_panel_on_a_phone(visit):
    from selenium.webdriver.common.action_chains import ActionBuilder
    from selenium.webdriver.common.actions.pointer_input import PointerInput

    driver = visit(row(), width=500)
    panel = driver.find_element("id", "detail")
    assert not panel.is_displayed()
    tap = ActionBuilder(driver, mouse=PointerInput("touch", "finger"))
    tap.pointer_action.move_to(cells(driver)[2]).pointer_down().pointer_up()
    tap.perform()
    assert panel.is_displayed() and "token 3" in said(driver)
    driver.find_element("id", "close").click()
    assert not panel.is_displayed()


CONTRAST = """
const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const light = (colour) => {
  paint.fillStyle = colour;
  paint.fillRect(0, 0, 1, 1);
  const parts = [...paint.getImageData(0, 0, 1, 1).data].slice(0, 3).map((x) => x / 255)
    .map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
  return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
};
return [...document.querySelectorAll(".scale .t")].map((swatch) => {
  const style = getComputedStyle(swatch);
  const pair = [light(style.color), light(style.backgroundColor)].sort((a, b) => b - a);
  return (pair[0] + 0.05) / (pair[1] + 0.05);
});
"""


@pytest.mark.parametrize("name", ["light", "dark"])
def test_text_is_readable_on_every_shade(visit, name: str):
    driver = visit(row())
    theme(driver, name)
    choose(driver, "measure", "log-ratio, teacher and student (student → solution)")
    ratios = driver.execute_script(CONTRAST)
    assert len(ratios) == 17 and min(ratios) > 4.5
    # Every shade is further from the background than the one before.
    assert ratios[8:] == sorted(ratios[8:], reverse=True)
    theme(driver, "")


def test_thousands_of_tokens_stay_smooth(visit):
    def long(step: int) -> dict[str, Any]:
        tokens = [f" w{i}" for i in range(3000)]
        signal = {**row()["signals"][0], "columns": {}, "in_loss": [True] * 3000}
        for name in ("value", "unclipped", "weight", "loss"):
            signal[name] = [1.0] * 3000
        signal["pairs"] = [pair(3000, "whole", "student", "solution", 0.3)]
        return row(step, f"p{step}", tokens, readers=[reader(tokens)], signals=[signal])

    driver = visit(*(long(step) for step in range(12)))
    assert len(cells(driver)) == 3000
    drawn = driver.execute_script("return document.querySelectorAll('.text > .t').length")
    assert drawn <= 3 * 3000, "cards far below the window wait"
    start = time.perf_counter()
    choose(driver, "measure", "log-ratio, teacher and student")
    assert classes_of(driver, 1) == "t n6"
    assert time.perf_counter() - start < 30, "a tenth of a second on an idle machine"
    cells(driver)[1500].click()
    start = time.perf_counter()
    keys(driver, *["ARROW_RIGHT"] * 10)
    assert chosen(driver) == 1510 and time.perf_counter() - start < 60
    driver.execute_script("dispatchEvent(new Event('beforeprint'))")
    drawn = driver.execute_script("return document.querySelectorAll('.text > .t').length")
    assert drawn == 12 * 3000, "paper gets all of them"


def classes_of(driver: Any, cell: int) -> str:
    return driver.execute_script(
        "return document.querySelectorAll('.text > .t')[arguments[0]].className", cell
    )


@pytest.mark.parametrize("width", [1200, 390])
def test_the_preview_is_text_and_folds(visit, width: int):
    driver = visit(html=preview_page(preview_content(HOSTILE)), width=width)
    assert driver.title == "a method on <b>model</b>"
    assert driver.find_elements("css selector", "img, script, b, main i:not([class])") == []
    # All of it is there: what is scrolled out of sight before the end, a driver takes for hidden.
    assert "U+202E" in driver.find_element("class name", "read").get_attribute("textContent")
    fold = driver.find_element("tag name", "details")
    assert fold.get_attribute("open")
    driver.execute_script("document.querySelector('summary').focus()")
    keys(driver, "ENTER")
    assert not fold.get_attribute("open")
    driver.find_element("tag name", "summary").click()
    assert fold.get_attribute("open")
    assert not wide(driver)
