"""The page alive: the real pipeline behind it, with what fails in it failing, and the words that then stand there.

What takes half a minute and more to be noticed is left out of the usual run. With it, and with pictures:

    PAGE_LIVE=capture,stalled,quiet,catching_up,behind PAGE_SCREENSHOTS=pictures \\
        .venv/bin/python -m pytest --timeout 900 tests/integration/api/test_page_live.py
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from demo.services import ValkeyServer
from tests.browser import Tab
from tests.fakes.capture import Capture
from tests.fan_out import TOKEN, Partner
from tests.pipeline import ROOT, Flow, Pipeline, events, free_port

LONG = [name for name in os.environ.get("PAGE_LIVE", "").split(",") if name]
SINKS = ("redis", "partner", "dead_letters")
CONTENT = "123e4567-e89b-12d3-a456-426614174000"
TITLE = "Introduction to Data Engineering"
NOTICED_S = 30.0  # a stall is shown within
SLOW = 30.0  # and so much more while other tests use the machine
ON_BOARD_S = 1.0


class Live:
    """Capture, a flow per sink, partner and API, each a process of its own on a Redis of their own."""

    def __init__(self, pipeline: Pipeline, partner: Partner) -> None:
        self.pipeline, self.partner = pipeline, partner
        self.port = free_port()
        self.flows: dict[str, Flow] = {}
        self.capture: Capture | None = None
        self._api: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start_api(self) -> None:
        with (self.pipeline.work / "api.log").open("ab") as output:
            self._api = subprocess.Popen(
                [sys.executable, "-m", "api"],
                cwd=ROOT,
                env=self.pipeline.environment(API_PORT=str(self.port), SINKS=",".join(SINKS)),
                stdout=output,
                stderr=output,
            )

    def kill_api(self) -> None:
        if self._api is not None:
            self._api.kill()
            self._api.wait(10)

    def start_flows(self) -> None:
        self.capture = Capture(self.pipeline.environment()).start()
        for sink in SINKS:
            self.flows[sink] = self.pipeline.start(sink, SINKS=sink)

    def insert(self, event_type: str = "play", content_id: str = CONTENT) -> None:
        """A row, as an application writes it."""
        with psycopg.connect(self.pipeline.postgres) as connection:
            connection.execute(
                "INSERT INTO engagement_events (content_id, user_id, event_type, event_ts, duration_ms, device) "
                "VALUES (%s, gen_random_uuid(), %s, now(), 900000, 'web')",
                [content_id, event_type],
            )

    def pause_capture(self, paused: bool) -> None:
        assert self.capture is not None
        self.capture.running.send_signal(signal.SIGSTOP if paused else signal.SIGCONT)

    def close(self) -> None:
        self.kill_api()
        if self.capture is not None:
            self.capture.close()


@pytest.fixture
def live(kafka: Any, postgres: str, redis_server: ValkeyServer, unique: str, tmp_path: Path) -> Iterator[Live]:
    partner = Partner(tmp_path)
    pipeline = Pipeline(kafka, postgres, redis_server.url, unique, tmp_path)
    pipeline.env = {
        "SINKS": ",".join(SINKS),
        "EXTERNAL_API_URL": f"{partner.url}/events",
        "EXTERNAL_API_TOKEN": TOKEN,
        "EXTERNAL_API_TIMEOUT_SECONDS": "2",
        "EXTERNAL_API_BATCH_SIZE": "100",
        "CDC_SLOT": unique,
    }
    made = Live(pipeline, partner)
    try:
        partner.start()
        pipeline.provision()
        yield made
    finally:
        made.close()
        pipeline.close()
        partner.stop()


def opened(live: Live, open_tab: Callable[..., Tab]) -> Tab:
    """The page, once the API serves it."""
    tab: Tab | None = None
    deadline = time.monotonic() + SLOW

    while tab is None:
        try:
            tab = open_tab(live.url)
        except Exception as refused:
            if "ERR_CONNECTION_REFUSED" not in str(refused) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    return tab


def test_the_page_says_what_the_pipeline_does(
    live: Live, open_tab: Callable[..., Tab], redis_server: ValkeyServer
) -> None:
    live.start_api()
    tab = opened(live, open_tab)
    tab.see("Starting", SLOW)
    tab.wait(lambda: "Redis" in tab.sentence, SLOW, "the sinks to be named")
    assert tab.texts("#pipeline .stage b")[0] == "Kafka", "no capture has spoken yet"
    tab.picture("real-starting")
    live.start_flows()
    tab.see("Waiting for the first event", NOTICED_S + SLOW)
    tab.picture("real-empty")

    # A row is on the board within a second, once the first has warmed everything up.
    live.insert()
    tab.see("Live", SLOW)
    tab.wait(lambda: TITLE in tab.texts("#board .title"), SLOW, "the row on the board")
    seconds = [row_on_the_board(live, tab) for _ in range(5)]
    assert sorted(seconds)[2] < ON_BOARD_S * (1 if os.getloadavg()[0] < 2 else 5), seconds
    tab.picture("real-live")

    # Broken rows: the reason, where it lies, and the command.
    live.pipeline.produce([b"hello", {"content_id": CONTENT, "event_type": "like", "user_id": "user_of_interest"}])
    tab.wait(lambda: "Not JSON" in tab.text("#rejected"), SLOW, "the reason")
    tab.wait(lambda: "Wrong event_type" in tab.text("#rejected"), SLOW, "the other reason")
    assert "operations.dead_letters" in tab.text("#rejected")
    assert "user_of_interest" not in tab.js("() => document.body.innerHTML")

    # The partner fails: it is named, the board goes on.
    live.partner.behave(status=503)
    live.insert()
    tab.see("Partner is down", NOTICED_S + SLOW)
    assert "nothing is lost" in tab.sentence
    assert "503" in tab.text("#pipeline .why")
    tab.picture("real-partner-down")
    row_on_the_board(live, tab)
    live.partner.behave()
    tab.see("Live", NOTICED_S + SLOW)

    # Redis is killed: what was seen stays, and comes alive again.
    live.insert()
    before = tab.texts("#board li.row .title")
    redis_server.kill()
    tab.see("Board stopped", NOTICED_S + SLOW)
    assert "Redis does not answer since " in tab.sentence
    assert tab.texts("#board li.row .title") == before
    assert tab.text("#pipeline li.stopped b") == "Redis"
    assert "Redis does not answer" in tab.text("#pipeline .why")
    tab.picture("real-redis-killed")
    redis_server.start()
    tab.see("Live", NOTICED_S + SLOW)

    for name in LONG:
        row_on_the_board(live, tab)
        tab.see("Live", NOTICED_S + SLOW)
        TAKES_LONGER[name](live, tab)

    # The API is killed.
    live.kill_api()
    tab.see("Connection lost", 6 + SLOW)
    tab.picture("real-lost")
    live.start_api()
    tab.wait(lambda: tab.title != "Connection lost", 2 * SLOW, "the page to come back")
    live.insert()  # not before: half a minute after the last row the page says Quiet
    tab.see("Live", SLOW)
    tab.page.goto(f"{live.url}/c/{CONTENT}")
    tab.wait(lambda: tab.text(".c-title .title") == TITLE, SLOW, "the content's own page")
    tab.picture("real-content")


def the_capture_is_paused(live: Live, tab: Tab) -> None:
    live.pause_capture(True)
    live.insert()
    tab.see("Capture is down", NOTICED_S + SLOW)
    tab.picture("real-capture-paused")
    live.pause_capture(False)
    tab.see("Live", NOTICED_S + SLOW)


def a_partition_stands_still(live: Live, tab: Tab) -> None:
    """Two processes keep the board, and one of them freezes: only what it reads waits."""
    live.flows["redis"].stop()
    one = live.pipeline.start("redis.0-2", SINKS="redis", KAFKA_PARTITIONS="0-2")
    other = live.pipeline.start("redis.3", SINKS="redis", KAFKA_PARTITIONS="3")
    for flow in (one, other):
        live.pipeline.claimed(flow)
    other.process.send_signal(signal.SIGSTOP)
    live.pipeline.produce(events(live.pipeline.contents, 200, spread_s=1))
    tab.see("Stalled", NOTICED_S + SLOW)
    assert tab.sentence.startswith("Events arrive in Kafka, but partition 3 has not moved for about ")
    assert tab.sentence.endswith(" The other 3 run.")
    tab.picture("real-stalled")
    other.process.send_signal(signal.SIGCONT)
    live.pipeline.caught_up()
    live.insert()
    tab.see("Live", NOTICED_S + SLOW)
    for flow in (one, other):
        assert flow.stop() == 0
    live.flows["redis"] = live.pipeline.start("redis", SINKS="redis")


def nobody_watches(live: Live, tab: Tab) -> None:
    tab.see("Quiet", NOTICED_S + SLOW)
    assert "nothing waits" in tab.sentence
    tab.picture("real-quiet")
    live.insert()
    tab.see("Live", SLOW)


def the_board_catches_up(live: Live, tab: Tab) -> None:
    """Its process is killed, half a million events arrive, and it comes back."""
    live.flows["redis"].kill()
    live.pipeline.produce(events(live.pipeline.contents, 500_000, spread_s=300))
    tab.see("Redis is down", NOTICED_S + SLOW)
    tab.picture("real-redis-flow-killed")
    live.flows["redis"] = live.pipeline.start("redis", SINKS="redis")
    tab.see("Catching up", SLOW)
    tab.picture("real-catching-up")
    live.pipeline.caught_up(120)


def a_sink_falls_behind(live: Live, tab: Tab) -> None:
    """A second for each request of 100 events, and 400 events a second."""
    live.partner.behave(delay_s=1)
    stop = threading.Event()

    def load() -> None:
        while not stop.wait(0.25):
            live.pipeline.produce(events(live.pipeline.contents, 100, spread_s=1))

    thread = threading.Thread(target=load)
    thread.start()
    try:
        tab.see("Falling behind", 2 * NOTICED_S + SLOW)
        assert "Partner is about" in tab.sentence
        tab.picture("real-behind")
    finally:
        stop.set()
        thread.join()
        live.partner.behave()


TAKES_LONGER = {
    "capture": the_capture_is_paused,
    "stalled": a_partition_stands_still,
    "quiet": nobody_watches,
    "catching_up": the_board_catches_up,
    "behind": a_sink_falls_behind,
}


def row_on_the_board(live: Live, tab: Tab) -> float:
    """Seconds from a commit in PostgreSQL until the board shows it."""
    before = tab.text("#board .ev")
    live.insert()
    committed = time.monotonic()
    tab.wait(lambda: tab.text("#board .ev") != before, SLOW, "the row")
    return time.monotonic() - committed
