"""`/docs` in a browser: what the API offers can be read and tried, with scripts and styles of this server only."""

from collections.abc import Callable
from typing import Any

from tests.browser import Tab
from tests.integration.api.test_process import running

TOKEN = "the-operator-knows-it"


def test_the_api_can_be_tried_without_another_server(
    redis_url: str, unique: str, open_tab: Callable[..., Tab], wait_for: Callable[..., Any]
) -> None:
    env = {"REDIS_URL": redis_url, "KAFKA_CONSUMER_GROUP": unique, "API_TOKEN": TOKEN}
    with running(env, wait_for) as (url, _):
        tab = open_tab(f"{url}/docs")
        asked: list[str] = []
        tab.page.on("request", lambda request: asked.append(request.url))
        tab.page.reload()
        tab.one("button.authorize").first.click()
        tab.page.get_by_label("auth-bearer-value").fill(TOKEN)
        tab.page.get_by_role("button", name="Apply credentials").click()
        tab.page.get_by_role("button", name="Close", exact=True).click()
        tab.page.locator(".opblock", has_text="/top-content").locator(".opblock-summary-control").click()
        tab.page.get_by_role("button", name="Try it out").click()
        tab.page.get_by_role("button", name="Execute").click()
        tab.wait(lambda: '"window"' in tab.page.locator(".live-responses-table").inner_text(), 20, "the board")
        tab.picture("docs")
        assert all(each.startswith((url, "data:")) for each in asked), asked
        assert tab.console == []
