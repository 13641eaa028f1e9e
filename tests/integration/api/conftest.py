"""A headless Chromium and the page's scripted server, for the tests of the page.

Debian's own browser is used, never a download: CHROMIUM names another. A machine without one skips these tests, and
says so at the end of the run; where CI=true that is a failure.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser import Tab, View
from tests.fakes.page_stream import PageServer, page_server

# As root there is no sandbox, and the pages are our own; a container's /dev/shm is too small.
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


def chromium() -> str | None:
    """Path of the browser; None: there is none."""
    named = os.environ.get("CHROMIUM")
    return named or next((path for name in NAMES if (path := shutil.which(name))), None)


# A module, not a session: while Playwright is open its event loop counts as running, and asyncio.run() of another
# test in the same worker would refuse.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium()
    if path is None:
        pytest.skip("no Chromium: the page is NOT tested; apt-get install chromium, or set CHROMIUM to its path")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def pages() -> Iterator[PageServer]:
    """The scripted server; `begin` it in each test."""
    with page_server() as server:
        yield server


@pytest.fixture
def open_tab(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Tab]]:
    """open_tab(url, view=View.LAPTOP, **of the context): a tab in a context of its own, where the page is loaded."""
    folder = Path(os.environ.get("PAGE_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:

        def open_one(url: str, view: View = View.LAPTOP, **more: Any) -> Tab:
            context = browser.new_context(**{**view.context, **more})
            stack.callback(context.close)
            page: Page = context.new_page()
            return Tab(page, folder).go(url, view)

        yield open_one
