"""What the stream carries, computed once a second for all clients, and nothing while nobody listens."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog

from api import reads
from api.hub import Hub, Key
from api.observer import REDIS_FAILURES, Observer
from api.places import PLACES, Places
from api.queries import TotalsReader
from api.read_process import Readers
from api.reads import LiveBoard
from api.rejected import RejectedLetters, without_examples
from api.stages import instant

ROWS = {"rolling": 20, "tumbling": 5}
WINDOWS = 4
CONTENTS_MAX = 50  # computed in one second
TICK_S = 1.0
EVERY_S = 0.95  # boards; looks are LOOK_S apart
LOOK_S = 0.1
UNHEARD_S = 5.0
REJECTED_EVERY_S = 2.0

log = structlog.get_logger()


class Live:
    """letters: what the event `rejected` tells; now_us: microseconds since 1970. On the event loop's thread only."""

    def __init__(
        self,
        readers: Readers,
        observer: Observer,
        hub: Hub,
        letters: RejectedLetters | None = None,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._readers = readers
        self._observer, self._hub, self._letters, self._now_us = observer, hub, letters, now_us
        self._people: int | None = None
        self._of_hour: int | None = None  # events counted in the last hour
        self._marks: list[int | None] = []
        self._computed_at = self._changed_at = 0.0
        self.places = Places(readers.boards)

    def start(self, stop: threading.Event) -> None:
        """Compute and tick on the running loop, until `stop`."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(each) for each in (self._compute_until(stop), self._tick_until(stop))]

    async def _compute_until(self, stop: threading.Event) -> None:
        """While Redis is away nothing is published: what was seen stays."""
        while not stop.is_set():
            try:
                if await self._due(time.time()):
                    self._hub.publish(await self.events(self._hub.watched()))
            except REDIS_FAILURES:
                pass  # the observer says so
            except Exception:
                log.exception("live_failed")  # a task that ends is not seen
            await asyncio.sleep(LOOK_S)

    async def _due(self, now: float) -> bool:
        """Whether to compute: when something was counted, at most once a second, so that what comes after a pause is
        on the board at once; each second, since boards forget by the clock; seldom while nobody listens."""
        marks = await self._readers.boards(reads.marks)
        changed = marks != self._marks and now - self._changed_at >= EVERY_S
        if changed:
            self._marks, self._changed_at = marks, now
        if changed or now - self._computed_at >= (EVERY_S if self._hub.clients else UNHEARD_S):
            self._computed_at = now
            return True
        return False

    async def _tick_until(self, stop: threading.Event) -> None:
        """A tick every second whatever happens: nothing in here waits for a service."""
        told_at = -REJECTED_EVERY_S
        while not stop.is_set():
            now = self._now_us() / 1e6
            events: dict[Key, Any] = {("tick", ""): self.tick(now), ("pipeline", ""): self._observer.pipeline(now)}
            if self._letters is not None and time.monotonic() - told_at >= REJECTED_EVERY_S:
                told_at = time.monotonic()
                events["rejected", "operate"] = told = self.rejected()
                events["rejected", "read"] = without_examples(told)
            self._hub.publish(events)
            await asyncio.sleep(TICK_S - time.time() % TICK_S)

    def rejected(self) -> dict[str, Any]:
        """The event `rejected`; its `read` is of the last hour too, or null."""
        assert self._letters is not None
        return self._letters.rejected(self._now_us() / 1e6, self._of_hour)

    def tick(self, now: float) -> dict[str, Any]:
        """now: seconds since 1970. Unknown is null, never zero."""
        phase = self._observer.phase(now)
        rates = self._observer.rates()
        last = [count for count in rates[-5:] if count is not None]
        facts = self._observer.facts(now)
        return {
            "now": instant(now),
            "phase": phase.phase,
            "title": phase.title,
            "sentence": phase.sentence,
            "clock_at": instant(phase.clock_at),
            "newest_event_ts": instant(facts.newest_event),
            "events_per_s": None if facts.kafka_away_since or not last else round(sum(last) / len(last)),
            "rate_60": rates,
            "people_10m": None if facts.redis_away_since else self._people,
        }

    async def events(self, watched: list[str]) -> dict[Key, Any]:
        """Boards, titles, windows and the contents that are watched. Titles come before the rows that need them."""
        now_us = self._now_us()
        comparable = self._observer.phase(now_us / 1e6).phase not in ("starting", "catching_up", "no_board", "empty")
        await self.places.look(now_us)
        boards = {window: await self._board(window, rows, now_us, comparable) for window, rows in ROWS.items()}
        self._people = boards["rolling"].people
        windows = await self._readers.boards(TotalsReader.windows, WINDOWS, now_us)
        self._of_hour = await self._readers.boards(TotalsReader.events_of_hour, now_us)
        titles = {content_id: title for board in boards.values() for content_id, title in board.titles.items()}
        events: dict[Key, Any] = {("meta", ""): dict(sorted(titles.items()))}
        events |= {("board", window): board.event for window, board in boards.items()}
        events["windows", ""] = {"windows": windows}
        for content_id in watched[:CONTENTS_MAX]:
            place = self.places.of(content_id, now_us, comparable)
            events["content", content_id] = await self._readers.contents(reads.live_content, content_id, place, now_us)
        return events

    async def _board(self, window: str, rows: int, now_us: int, comparable: bool) -> LiveBoard:
        remembers = window == "rolling" and self.places.due(now_us)
        compared_at_s, before = self.places.before(now_us) if comparable and window == "rolling" else (None, {})
        board = await self._readers.boards(
            reads.live_board,
            window,
            rows,
            now_us,
            places=PLACES if remembers else 0,
            before=before,
            compared_with=instant(compared_at_s),
        )
        if remembers:
            self.places.remember(now_us, board.content_ids)
        return board
