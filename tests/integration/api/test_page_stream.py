"""The page and its connection: a server that is silent, gone, behind a broken proxy, or asks who is there."""

import time
from collections.abc import Callable

import pytest

from tests.browser import Tab
from tests.fakes.page_scenes import SCENES, content
from tests.fakes.page_stream import PageServer

LOST_WITHIN_S = 6.0
BACK_WITHIN_S = 5.0


def age_s(tab: Tab) -> float:
    """The largest figure: the age of the newest event, seconds."""
    value, unit = tab.text(".fresh .v"), tab.text(".fresh .u")
    minutes, _, seconds = value.rpartition(":")
    return float(minutes or 0) * 60 + float(seconds) if unit.startswith("min") else float(value)


def test_a_server_that_is_killed_is_said_and_found_again(pages: PageServer, open_tab: Callable[..., Tab]) -> None:
    pages.begin("live")
    tab = open_tab(pages.url).see("Live")
    rows = tab.texts("#board li.row .title")
    pages.stop()
    killed = time.monotonic()
    tab.see("Connection lost", timeout=LOST_WITHIN_S)
    assert tab.sentence.startswith("No word from the server for ")
    assert tab.sentence.endswith(" The page keeps trying by itself.")
    assert " What you see is from 14:26:" in tab.sentence
    tab.painted()
    tab.picture("lost-laptop")
    assert tab.page.title() == "Connection lost: Live engagement"
    before = age_s(tab)
    tab.wait(lambda: age_s(tab) > before + 0.9, message="the freshness to grow")
    assert before == pytest.approx(time.monotonic() - killed, abs=3)
    assert tab.texts("#board li.row .title") == rows, "what was seen stays"
    assert tab.text(".rate .v") == "–"
    assert set(tab.texts("#pipeline .per")) == {"per second –"}
    assert tab.js("() => document.querySelectorAll('#pipeline .mark.unknown').length") == 6
    pages.start()
    tab.see("Live", timeout=BACK_WITHIN_S)
    tab.wait(lambda: tab.text(".rate .v") == "1,524", message="the rate")


def test_a_proxy_that_answers_502_is_outlived(pages: PageServer, open_tab: Callable[..., Tab]) -> None:
    """An EventSource gives up for good on any answer but 200: the page opens a new one."""
    script = pages.begin("live")
    tab = open_tab(pages.url).see("Live")
    pages.stop()
    script.status = 502
    pages.start()
    tab.see("Connection lost", timeout=LOST_WITHIN_S)
    script.status = None
    tab.see("Live", timeout=BACK_WITHIN_S)


def test_a_server_that_says_nothing_any_more_is_lost(pages: PageServer, open_tab: Callable[..., Tab]) -> None:
    """Nothing was closed: a dead network looks like this."""
    script = pages.begin("live")
    tab = open_tab(pages.url).see("Live")
    script.ticking = False
    tab.see("Connection lost", timeout=LOST_WITHIN_S + 1)
    script.ticking = True
    tab.see("Live", timeout=BACK_WITHIN_S)
    assert tab.console == []


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_device_whose_clock_is_wrong_tells_the_right_age(
    pages: PageServer, open_tab: Callable[..., Tab], hours: int
) -> None:
    pages.begin("live", at=time.time() + hours * 3600)
    tab = open_tab(pages.url).see("Live")
    assert 0.5 <= age_s(tab) < 60


def test_without_a_token_there_is_a_door(pages: PageServer, open_tab: Callable[..., Tab]) -> None:
    pages.begin("live", token="open-sesame")
    tab = open_tab(pages.url).see("Sign in")
    assert tab.sentence == "This board needs a token."
    tab.picture("denied-laptop")
    tab.one("#token").fill("a guess")
    tab.page.keyboard.press("Enter")
    tab.wait(lambda: "does not know this token" in tab.text("#refused"), message="the refusal")
    tab.one("#token").fill("open-sesame")
    tab.one("#door button").click()
    tab.see("Live")
    assert "sesame" not in tab.page.url
    assert tab.js("() => document.cookie") == "", "no script can read the session"
    tab.page.reload()
    tab.see("Live")


def test_an_unknown_content_says_so_and_appears_when_it_is_known(
    pages: PageServer, open_tab: Callable[..., Tab]
) -> None:
    pages.begin("live")
    unknown = "no-such-content"
    tab = open_tab(f"{pages.url}/c/{unknown}").see("Unknown content")
    assert unknown in tab.sentence
    tab.picture("unknown-content-laptop")
    pages.say({("content", unknown): content(pages.script.now()) | {"content_id": unknown}})
    tab.see("Live")
    assert tab.text(".c-title .title")


def test_seven_tabs_load_where_six_connections_are_all_there_are(
    pages: PageServer, open_tab: Callable[..., Tab]
) -> None:
    """HTTP/1.1 allows six connections per host: tabs that nobody looks at for a minute give theirs back."""
    pages.begin("live")
    tabs = [open_tab(pages.url)]
    tabs += [tabs[0].another() for _ in range(5)]
    for tab in tabs:
        tab.see("Live", timeout=10)
    assert pages.clients == 6
    for tab in tabs:
        tab.hide_for(61)
    tabs[0].wait(lambda: pages.clients == 0, message="the hidden tabs to close their streams")
    tabs[0].another().see("Live", timeout=10)
    tabs[3].show().see("Live", timeout=BACK_WITHIN_S)
    assert pages.clients == 2


def test_redis_that_pauses_leaves_what_was_seen(pages: PageServer, open_tab: Callable[..., Tab]) -> None:
    """Ticks go on, the board stays: never a zero for what is unknown."""
    pages.begin("live")
    tab = open_tab(pages.url).see("Live")
    rows = tab.texts("#board li.row .score")
    pages.script.scene = paused = SCENES["no_board"]
    pages.say({("tick", ""): paused.tick(pages.script.now()), ("pipeline", ""): paused.pipeline()})
    tab.see("Board stopped")
    assert tab.texts("#board li.row .score") == rows
    assert tab.text(".people .v") == "–"
    assert age_s(tab) > 200
