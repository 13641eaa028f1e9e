"""The page by keyboard, by ear, enlarged, in the colours of the system, and where there is no clipboard."""

from collections.abc import Callable

from tests.browser import Tab
from tests.fakes.page_scenes import IDS
from tests.fakes.page_stream import PageServer


def test_the_keyboard_reaches_the_board_and_a_content(pages: PageServer, open_tab: Callable[..., Tab]) -> None:
    pages.begin("live", frozen=True)
    tab = open_tab(f"{pages.url}/?theme=light").see("Live")
    focused = "() => document.activeElement.textContent.trim()"
    tab.page.keyboard.press("Tab")
    assert tab.js(focused) == "Skip to the board"
    assert tab.one(".skip").is_visible()
    tab.page.keyboard.press("Enter")
    assert tab.js("() => document.activeElement.id") == "main"
    tab.page.keyboard.press("Tab")
    assert tab.js("() => document.activeElement.closest('li.row') !== null"), "the first row"
    outline = tab.js("() => { const s = getComputedStyle(document.activeElement); return s.outlineStyle; }")
    assert outline != "none", "what has the focus is seen"
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_url("**/c/**")
    assert tab.page.url.endswith("?theme=light"), "the reader's choice goes along"
    tab.wait(lambda: "Board" in tab.text("a.back"), message="the way back")


def test_a_change_of_state_is_said_once(pages: PageServer, open_tab: Callable[..., Tab]) -> None:
    pages.begin("live")
    tab = open_tab(pages.url).see("Live")
    tab.js(
        """() => { window.said = []; const status = document.getElementById("say");
        new MutationObserver(() => window.said.push(status.textContent))
        .observe(status, {childList: true, characterData: true, subtree: true}); }"""
    )
    pages.play("sink_down")
    tab.see("Partner is down")
    tab.wait(lambda: tab.js("() => window.said.length"), message="the words")
    rate = tab.text(".fresh .v")
    tab.wait(lambda: tab.text(".fresh .v") != rate, message="later numbers")
    [said] = tab.js("() => window.said")
    assert said.startswith("Partner is down. 1.2 million events wait for it in Kafka")


def test_enlarged_to_twice_the_size_nothing_overflows(pages: PageServer, open_tab: Callable[..., Tab]) -> None:
    """200 % zoom of a laptop is a window of half the size."""
    pages.begin("sink_down", frozen=True)
    tab = open_tab(pages.url, viewport={"width": 720, "height": 450}, device_scale_factor=2).see("Partner is down")
    assert tab.overflow[0] <= 0


def test_forced_colours_keep_marks_and_bars(pages: PageServer, open_tab: Callable[..., Tab]) -> None:
    pages.begin("sink_down", frozen=True)
    tab = open_tab(pages.url, forced_colors="active").see("Partner is down")
    tab.painted()
    tab.picture("sink_down-forced-colours")
    unseen = tab.js(
        """() => [...document.querySelectorAll(".mark *, .spark path, .bar rect, .minutes rect")].filter(shape => {
        const style = getComputedStyle(shape), page = getComputedStyle(document.body).backgroundColor;
        return style.fill === page && (style.stroke === "none" || style.stroke === page); }).length"""
    )
    assert unseen == 0


def test_without_a_clipboard_the_command_is_selected(pages: PageServer, open_tab: Callable[..., Tab]) -> None:
    """Plain http from another machine has none."""
    pages.begin("live", frozen=True)
    tab = open_tab(pages.url).see("Live")
    tab.wait(lambda: tab.text("#rejected details[open] .command code"), message="the command")
    tab.js("() => Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    tab.one("#rejected details[open] button").click()
    tab.wait(lambda: tab.text("#rejected details[open] button") == "Select it by hand", message="the advice")
    assert tab.js("() => String(getSelection())") == tab.text("#rejected details[open] .command code")
    assert tab.console == []


def test_every_minute_of_a_content_is_in_a_table(pages: PageServer, open_tab: Callable[..., Tab]) -> None:
    pages.begin("live", frozen=True)
    tab = open_tab(f"{pages.url}/c/{IDS[3]}").see("Live")
    tab.wait(lambda: tab.texts(".c-hour summary"), message="the content")
    tab.one(".c-hour summary").click()
    assert len(tab.texts(".c-hour tbody tr")) == 60
    assert tab.texts(".c-recent tbody tr")
    assert "user" not in tab.text(".c-recent").lower()
