"""The board as it moves: places and scores together, titles in any script, and a budget for what it costs."""

import os
import random
from collections.abc import Callable, Sequence
from typing import Any

from tests.browser import Tab, View
from tests.fakes.page_scenes import ARABIC, IDS, META, board, minutes_of, row
from tests.fakes.page_stream import PageServer

UPDATES = int(os.environ.get("PAGE_UPDATES", "300"))  # the budget's 20,000 by hand: PAGE_UPDATES=20000
PAINT_MEDIAN_MS_MAX = 16
HEAP_GROWTH_MAX = 10_000_000

# Rows as they are now: content id, place, score.
ROWS = """() => [...document.querySelectorAll("#board li.row")].map(row =>
  [row.dataset.id, Number(row.querySelector(".rank").textContent),
   Number(row.querySelector(".score").innerText.replace(/[^0-9]/g, ""))])"""
# From now on each animation frame in which places contradict scores is counted.
WATCH = """() => {
  window.wrong = []; window.frames = 0;
  const read = READ;
  const look = () => {
    const rows = read(); window.frames++;
    if (rows.some(([, place], i) => place !== i + 1) || rows.some(([,, score], i) => i && score > rows[i - 1][2]))
      window.wrong.push(rows);
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}""".replace("READ", ROWS)


def scores(order: Sequence[int]) -> list[dict[str, Any]]:
    """Rows of these contents (places in IDS), the first with the highest score."""
    made = [row(place, minutes_of(place)[50:]) for place in order]
    return [{**each, "score": 90_000 - 1_000 * number + 0.5} for number, each in enumerate(made)]


def rows(tab: Tab) -> list[tuple[str, int, int]]:
    return [(content_id, place, score) for content_id, place, score in tab.js(ROWS)]


def reorder(pages: PageServer, order: Sequence[int]) -> None:
    pages.say({("board", "rolling"): board("rolling", pages.script.now(), scores(order))})


def test_places_follow_scores_in_every_frame(pages: PageServer, open_tab: Callable[..., Tab]) -> None:
    pages.begin("live")
    tab = open_tab(pages.url).see("Live")
    tab.js(WATCH)
    rng, order = random.Random(1), list(range(15))
    for _ in range(8):
        rng.shuffle(order)
        reorder(pages, order)
        wanted = [IDS[place] for place in order[:10]]
        tab.wait(lambda wanted=wanted: [each[0] for each in rows(tab)] == wanted, message="the new order")
    tab.wait(lambda: tab.js("() => window.frames") > 20, message="frames")
    assert tab.js("() => window.wrong") == []
    assert tab.console == []


def test_moved_rows_slide_and_with_reduced_motion_they_do_not(pages: PageServer, open_tab: Callable[..., Tab]) -> None:
    pages.begin("live")
    moving = open_tab(pages.url).see("Live")
    still = open_tab(pages.url, reduced_motion="reduce").see("Live")
    for tab in (moving, still):
        tab.js(
            "() => { const slide = Element.prototype.animate; window.slid = 0;"
            "Element.prototype.animate = function (...all) { window.slid++; return slide.apply(this, all); }; }"
        )
    reorder(pages, [*range(14, -1, -1)])
    for tab in (moving, still):
        tab.wait(lambda tab=tab: rows(tab)[0][0] == IDS[14], message="the new order")
    assert moving.js("() => window.slid") > 0
    assert still.js("() => [window.slid, document.getAnimations().length]") == [0, 0]


def test_a_focused_row_keeps_its_place_and_its_element(pages: PageServer, open_tab: Callable[..., Tab]) -> None:
    pages.begin("live")
    tab = open_tab(pages.url).see("Live")
    reorder(pages, range(15))
    tab.wait(lambda: rows(tab)[0][0] == IDS[0], message="the first order")
    tab.one(f'#board li[data-id="{IDS[2]}"] a').focus()
    tab.js("() => { window.focused = document.activeElement; }")
    for turn in range(10):
        score = rows(tab)[2][2]
        reorder(pages, [*range(turn % 9 + 1, 15), *range(turn % 9 + 1)])
        tab.wait(lambda score=score: rows(tab)[2][2] != score, message="new values under the focus")
        assert rows(tab)[2][:2] == (IDS[2], 3)
        assert tab.js("() => document.activeElement === window.focused")
    assert "places wait while you point" in tab.text("#board h2")
    tab.js("() => document.activeElement.blur()")
    reorder(pages, range(14, -1, -1))
    tab.wait(lambda: rows(tab)[0][0] == IDS[14], message="places to follow again")


def test_a_title_has_the_direction_of_its_letters(pages: PageServer, open_tab: Callable[..., Tab]) -> None:
    pages.begin("live", frozen=True)
    tab = open_tab(pages.url).see("Live")
    directions = tab.js(
        """() => Object.fromEntries([...document.querySelectorAll("#board li.row")].map(row =>
        [row.dataset.id, getComputedStyle(row.querySelector(".title")).direction]))"""
    )
    assert directions[ARABIC] == "rtl"
    assert directions[IDS[1]] == "ltr"
    assert "rtl" in directions.values()
    # What is cut has its beginning, and no dots below the line are clipped.
    clipped = tab.js(
        """() => [...document.querySelectorAll("#board .title")].filter(title =>
        getComputedStyle(title).direction === "rtl" && title.scrollHeight > title.clientHeight + 1
        && title.textContent.length < 40).length"""
    )
    assert clipped == 0


def test_digits_are_equally_wide(pages: PageServer, open_tab: Callable[..., Tab]) -> None:
    pages.begin("live", frozen=True)
    tab = open_tab(pages.url).see("Live")
    tab.wait(lambda: tab.js("() => document.fonts.status") == "loaded", message="the fonts")
    widths = tab.js(
        """() => [".fresh .v", ".rate .v", "#board .score", "#board .ev", "#pipeline .num"].map(selector => {
          const at = document.querySelector(selector), probe = document.createElement("span");
          at.append(probe);
          const found = [..."0123456789"].map(digit => {
            probe.textContent = digit.repeat(20); return Math.round(probe.getBoundingClientRect().width * 10); });
          probe.remove();
          return [selector, new Set(found).size]; })"""
    )
    assert [selector for selector, different in widths if different != 1] == []


def test_a_title_is_text(pages: PageServer, open_tab: Callable[..., Tab]) -> None:
    hostile = "<img src=x onerror=\"document.title='broken in'\"><script>alert(1)</script> ${1+1}"
    pages.begin("live", frozen=True)
    tab = open_tab(pages.url).see("Live")
    pages.say({("meta", ""): {**META, IDS[1]: {**META[IDS[1]], "content_title": hostile}}})
    tab.wait(lambda: hostile in tab.texts("#board .title"), message="the title as it was written")
    assert tab.js("() => document.querySelectorAll('#board img, #board script').length") == 0
    assert tab.page.title() == "Live engagement"
    assert tab.console == []


def test_many_updates_stay_in_the_budget(pages: PageServer, open_tab: Callable[..., Tab]) -> None:
    """Paint times, heap and nodes, as if the page had been open for as many seconds."""
    pages.begin("live")
    tab = open_tab(pages.url, View.WALL).see("Live")
    session = tab.page.context.new_cdp_session(tab.page)
    tab.js(
        """() => { window.paints = []; new PerformanceObserver(list => window.paints.push(
        ...list.getEntriesByName("paint").map(each => each.duration))).observe({type: "measure"}); }"""
    )

    def measured() -> tuple[int, int]:
        session.send("HeapProfiler.collectGarbage")
        counted = session.send("Performance.getMetrics")["metrics"]
        found = {each["name"]: each["value"] for each in counted}
        return int(found["JSHeapUsedSize"]), int(found["Nodes"])

    session.send("Performance.enable")
    rng, order = random.Random(2), list(range(15))

    def update(times: int) -> None:
        for _ in range(times):
            rng.shuffle(order)
            reorder(pages, order)
            tab.page.wait_for_timeout(10)
        tab.wait(lambda: [each[0] for each in rows(tab)] == [IDS[place] for place in order[:10]], timeout=20)
        tab.painted()

    update(20)
    heap, nodes = measured()
    update(UPDATES)
    heap_after, nodes_after = measured()
    assert heap_after - heap < HEAP_GROWTH_MAX
    assert nodes_after <= nodes * 1.1
    paints = sorted(tab.js("() => window.paints"))
    assert paints
    assert paints[len(paints) // 2] < PAINT_MEDIAN_MS_MAX
    assert tab.console == []
