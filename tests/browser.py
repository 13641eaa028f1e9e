"""A tab of the headless browser: what a reader sees in it, as values."""

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

from playwright.sync_api import ConsoleMessage, Locator, Page

from tests.conftest import poll
from tests.fakes.page_scenes import ZONE

# Headless, every tab counts as seen: hide(true) says otherwise to the page.
HIDING = """
window.hide = hidden => {
  Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
  Object.defineProperty(document, "visibilityState", {value: hidden ? "hidden" : "visible", configurable: true});
  document.dispatchEvent(new Event("visibilitychange"));
};
"""


class View(Enum):
    """How the page is looked at: size, colours, query."""

    LAPTOP = ((1440, 900), "dark", "")
    LIGHT = ((1440, 900), "light", "")
    WALL = ((1920, 1080), "dark", "view=wall")
    PHONE = ((390, 844), "dark", "")

    @property
    def context(self) -> dict[str, Any]:
        (width, height), scheme, _ = self.value
        size = {"width": width, "height": height}
        return {"viewport": size, "color_scheme": scheme, "timezone_id": ZONE, "has_touch": self is View.PHONE}

    @property
    def query(self) -> str:
        return self.value[2]


class Tab:
    """One tab. `console` has what it complained about, uncaught errors and refusals by the CSP among it."""

    def __init__(self, page: Page, folder: Path) -> None:
        self.page, self._folder = page, folder
        self.console: list[str] = []
        page.add_init_script(HIDING)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.console.append(f"uncaught: {error}"))

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.console.append(f"{message.type}: {message.text}")

    def go(self, url: str, view: View) -> "Tab":
        self.page.goto(f"{url}{'&' if '?' in url else '?'}{view.query}" if view.query else url)
        return self

    def another(self) -> "Tab":
        """The same address in a tab beside it."""
        return Tab(self.page.context.new_page(), self._folder).go(self.page.url, View.LAPTOP)

    def hide_for(self, seconds: int) -> None:
        """Nobody looks at the tab, for so long already."""
        self.page.clock.install()
        self.js("hide(true)")
        self.page.clock.fast_forward(seconds * 1000)

    def show(self) -> "Tab":
        self.js("hide(false)")
        return self

    def see(self, title: str, timeout: float = 5) -> "Tab":
        """Wait for the title of a state."""
        try:
            self.wait(lambda: self.title == title, timeout)
        except AssertionError:
            raise AssertionError(f"waited {timeout} s for {title!r}; it says {self.title!r}: {self.sentence}") from None
        return self

    def wait(self, condition: Callable[[], Any], timeout: float = 5, message: str = "the condition") -> Any:
        """As `wait_for`, but the browser's own events go on meanwhile."""

        def look() -> Any:
            self.page.wait_for_timeout(20)
            return condition()

        return poll(look, timeout, message)

    @property
    def title(self) -> str:
        return self.text("h1")

    @property
    def sentence(self) -> str:
        return self.text(".state p")

    def text(self, selector: str) -> str:
        """Of the first that is there, as it is read; "" where there is none."""
        found = self.page.query_selector(selector)
        return " ".join(found.inner_text().split()) if found else ""

    def texts(self, selector: str) -> list[str]:
        return [" ".join(text.split()) for text in self.page.locator(selector).all_inner_texts()]

    def one(self, selector: str) -> Locator:
        return self.page.locator(selector).first

    def js(self, expression: str, argument: Any = None) -> Any:
        return self.page.evaluate(expression, argument)

    def tops(self) -> dict[str, float]:
        """Where the parts of the page begin, CSS pixels from above."""
        found: dict[str, float] = self.js(
            """() => Object.fromEntries(["head", "board", "windows", "current"]
            .map(id => [id, Math.round(document.getElementById(id).getBoundingClientRect().top + scrollY)]))"""
        )
        return found

    @property
    def overflow(self) -> tuple[int, int]:
        """CSS pixels by which the document is wider and higher than the window."""
        wide, high = self.js(
            "() => { const e = document.documentElement; "
            "return [e.scrollWidth - innerWidth, e.scrollHeight - innerHeight]; }"
        )
        return wide, high

    def painted(self) -> None:
        """Wait until what has come is painted: a frame may be 250 ms away, a row slides for 320 ms."""
        self.page.wait_for_timeout(300)
        self.wait(lambda: not self.js("() => document.getAnimations().length"), message="the rows to come to rest")

    def picture(self, name: str) -> Path:
        """A picture in PAGE_SCREENSHOTS, or in the test's own folder: of the window, on a phone of the whole page."""
        path = self._folder / f"{name}.png"
        size = self.page.viewport_size
        self.page.screenshot(path=path, full_page=bool(size and size["width"] == View.PHONE.value[0][0]))
        return path
