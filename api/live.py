"""What the stream carries, computed once a second for all clients, and nothing while nobody listens."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from api.hub import Hub, Key
from api.observer import REDIS_FAILURES, Observer, start_thread
from api.places import PLACES, Places
from api.queries import TotalsReader
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
META = ("content_title", "content_type", "content_length_seconds")
ROW = ("content_id", "rank", "rank_before", "score", "events", "unique_users", "minutes")


class Live:
    """letters: what the event `rejected` tells; now_us: microseconds since 1970"""

    def __init__(
        self,
        totals: TotalsReader,
        observer: Observer,
        hub: Hub,
        letters: RejectedLetters | None = None,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._totals, self._observer, self._hub, self._letters, self._now_us = totals, observer, hub, letters, now_us
        self._people: int | None = None
        self._read: int | None = None  # events counted in the last hour
        self._marks: list[int | None] = []
        self._computed_at = self._changed_at = 0.0
        self.places = Places(totals)

    def start(self, stop: threading.Event) -> None:
        """Compute on a thread, tick on the running loop, until `stop`."""
        loop = asyncio.get_running_loop()

        def compute(now: float) -> None:
            if not self._due(now):
                return
            events = self.events(self._hub.watched())
            if events and not loop.is_closed():
                loop.call_soon_threadsafe(self._hub.publish, events)

        start_thread(compute, stop, LOOK_S)
        self._ticking = loop.create_task(self._tick_until(stop))

    def _due(self, now: float) -> bool:
        """Whether to compute: when something was counted, at most once a second, so that what comes after a pause is
        on the board at once; each second, since boards forget by the clock; seldom while nobody listens."""
        try:
            marks = [position.offset_next for position in self._totals.positions()]
        except REDIS_FAILURES:
            return False
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
        """The event `rejected`; `read` is of the last hour too, or null."""
        assert self._letters is not None
        return self._letters.rejected(self._now_us() / 1e6, self._read)

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

    def events(self, watched: list[str]) -> dict[Key, Any]:
        """Boards, titles, windows and the contents that are watched; nothing while Redis is away: what was seen stays.

        Titles come before the rows that need them."""
        now_us = self._now_us()
        comparable = self._observer.phase(now_us / 1e6).phase not in ("starting", "catching_up", "no_board", "empty")
        try:
            events: dict[Key, Any] = {}
            meta: dict[str, Any] = {}
            for window, rows in ROWS.items():
                event, titles = self._board(window, rows, now_us, comparable)
                meta |= titles
                events["board", window] = event
            events["windows", ""] = {"windows": self._totals.windows(WINDOWS, now_us)}
            self._read = self._totals.events_of_hour(now_us)
            for content_id in watched[:CONTENTS_MAX]:
                events["content", content_id] = self._content(content_id, now_us, comparable)
        except REDIS_FAILURES:
            return {}
        return {("meta", ""): dict(sorted(meta.items())), **events}

    def _board(self, window: str, rows: int, now_us: int, comparable: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """The event, and the titles of its rows."""
        remembers = window == "rolling" and self.places.due(now_us)
        board, content_ids = self._totals.board(window, rows, now_us, places=PLACES if remembers else 0)
        compared_at_s: float | None = None
        before: dict[str, int] = {}
        if remembers:
            self.places.remember(now_us, content_ids)
        if window == "rolling":
            self._people = self._totals.people("rolling", now_us)
            if comparable:
                compared_at_s, before = self.places.before(now_us)
        shown = [{**row, "rank_before": before.get(row["content_id"])} for row in board["rows"]]
        event = {
            "window": window,
            "start": board["start"],
            "end": board["end"],
            "newest_event_ts": board["newest_event_ts"],
            "compared_with": instant(compared_at_s),
            "totals": {
                "events": self._totals.events_of(window, now_us),
                "unique_users": self._people if window == "rolling" else self._totals.people(window, now_us),
            },
            "rows": [{name: row[name] for name in ROW} for row in shown],
        }
        return event, {row["content_id"]: {name: row[name] for name in META} for row in shown}

    def _content(self, content_id: str, now_us: int, comparable: bool) -> dict[str, Any]:
        """The event `content`: the stats with places, and the recent events. One that nobody knows says so."""
        stats = self._totals.stats(content_id, now_us)
        if stats is None:
            return {"content_id": content_id, "known": False}
        stats["rolling"] |= self.places.of(content_id, now_us, comparable)
        return {**stats, "known": True, "recent": self._totals.recent_events(content_id, 50, now_us) or []}
