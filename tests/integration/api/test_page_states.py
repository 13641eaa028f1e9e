"""Every state of the page in a real browser: its exact words, and nothing that moves, overflows or complains."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.browser import Tab, View
from tests.fakes.page_scenes import IDS, SCENES, catching_up, facts, stages
from tests.fakes.page_stream import PageServer

# state -> title, sentence, what an empty board says
WORDS = {
    "live": ("Live", "Every destination is on time.", ""),
    "starting": (
        "Starting",
        "Capture is running; Redis reads its position. The first numbers come within a minute.",
        "The board is being rebuilt from Kafka.",
    ),
    "no_board": ("Board stopped", "Redis does not answer since 14:22. Events wait in Kafka; nothing is lost.", ""),
    "stalled": (
        "Stalled",
        "Events arrive in Kafka, but partition 5 has not moved for about 40 s. The other 7 run.",
        "",
    ),
    "sink_down": (
        "Partner is down",
        "1.2 million events wait for it in Kafka; nothing is lost. Capture, Redis and BigQuery are on time, so this "
        "board is right.",
        "",
    ),
    "catching_up": (
        "Catching up",
        "This board is about 6 min behind and will be live in about 70 s. About 565,000 events wait in Kafka; nothing "
        "is lost.",
        "",
    ),
    "behind": (
        "Falling behind",
        "BigQuery is about 3 min behind and not getting closer. This board is on time.",
        "",
    ),
    "empty": (
        "Waiting for the first event",
        "Everything is running. The board fills with the first row in engagement_events.",
        "python -m generator --mode batch --batch-size 100",
    ),
    "idle": (
        "Quiet",
        "No events since 14:03. Everything is running and nothing waits: nobody is watching just now.",
        "Nothing happened in the last 10 minutes. The board forgets by the clock, so it is empty on purpose.",
    ),
}
AXE_VIEWS = (View.LAPTOP, View.LIGHT)


def violations(tab: Tab) -> list[str]:
    """What axe-core objects to, and where."""
    found = Axe().run(tab.page).response["violations"]
    return [f"{each['id']}: {node['html'][:200]}" for each in found for node in each["nodes"]]


def test_the_states_are_all_that_the_server_has() -> None:
    assert WORDS.keys() == SCENES.keys()


@pytest.mark.parametrize("view", View)
def test_every_state_has_its_words_and_moves_nothing(
    pages: PageServer, open_tab: Callable[..., Tab], view: View
) -> None:
    pages.begin("live", frozen=True)
    tab = open_tab(pages.url, view).see("Live")
    tops = tab.tops()
    for name, (title, sentence, empty) in WORDS.items():
        pages.play(name)
        tab.see(title)
        tab.painted()
        tab.picture(f"{name}-{view.name.lower()}")
        assert tab.sentence == sentence
        assert empty in tab.text("#board .empty")
        assert len(tab.texts("#board li.row")) == (0 if empty else 10)
        rejected = tab.text("#rejected")
        assert ("Nothing was rejected." if name in ("starting", "empty") else "Wrong event_type") in rejected
        assert tab.page.title() == ("" if name == "live" else f"{title}: ") + "Live engagement"
        wide, high = tab.overflow
        assert wide <= 0, name
        if view is View.WALL:
            assert high <= 0, name
        if view is not View.PHONE:  # there the head may grow
            assert tab.tops() == tops, name
        if view in AXE_VIEWS:
            assert violations(tab) == [], name
    assert tab.console == []


@pytest.mark.parametrize("view", View)
def test_a_content_has_a_page_of_its_own(pages: PageServer, open_tab: Callable[..., Tab], view: View) -> None:
    pages.begin("live", frozen=True)
    tab = open_tab(f"{pages.url}/c/{IDS[3]}", view).see("Live")
    tab.wait(lambda: tab.text(".c-title .title"), message="the content")
    tab.picture(f"content-{view.name.lower()}")
    assert tab.text(".c-title .title") == "كيف تغيّرت المدن العربية خلال عشر سنوات"
    assert "Last hour" in tab.text(".c-hour h2")
    assert tab.overflow[0] <= 0
    if view in AXE_VIEWS:
        assert violations(tab) == []
    assert tab.console == []


@pytest.mark.parametrize("width", [320, 390, 768, 1440, 3840])
def test_no_width_overflows_sideways(pages: PageServer, open_tab: Callable[..., Tab], width: int) -> None:
    pages.begin("sink_down", frozen=True)
    tab = open_tab(pages.url, viewport={"width": width, "height": 900}).see("Partner is down")
    tab.painted()
    assert tab.overflow[0] <= 0
    tab.page.goto(f"{pages.url}/c/{IDS[3]}")
    tab.wait(lambda: tab.text(".c-title .title"), message="the content")
    assert tab.overflow[0] <= 0


@pytest.mark.parametrize("late", ["capture", "redis"])
def test_minutes_that_were_not_read_are_no_zeros(pages: PageServer, open_tab: Callable[..., Tab], late: str) -> None:
    """A late capture makes the board late as much as a late sink."""
    pages.begin("live", frozen=True)
    tab = open_tab(pages.url).see("Live")
    tab.wait(lambda: tab.text("#windows .key").endswith("to come"), message="the key")
    behind = catching_up(372.0, 565_204, 9412.0, 71.0)
    pages.play(replace(SCENES["catching_up"], facts=facts(stages=stages(**{late: behind}))))
    tab.see("Catching up")
    assert tab.sentence.startswith("This board is about 6 min behind and will be live in about 70 s.")
    tab.wait(lambda: tab.text("#windows .key").endswith("not read yet"), message="the key")
    assert set(tab.texts("#board .move")) == {""}, "nothing to compare with"
