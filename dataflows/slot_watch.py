"""How much log PostgreSQL keeps for the capture's slot: asked now and then, on a connection of its own, for status and
metrics. A capture that stands still fills PostgreSQL's disk, or loses its slot."""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from math import nan
from typing import Any

import psycopg

import metrics
from sources.slot_backlog import SlotBacklog, read_backlog

EVERY_S = 15.0
CONNECTION: dict[str, Any] = {
    "autocommit": True,
    "connect_timeout": 5,
    "tcp_user_timeout": 30_000,
    "application_name": "engagement-capture-watch",
}


class SlotWatch:
    """What the server last said of the slot; nothing while it is away: the capture says so itself."""

    def __init__(self, dsn: str, slot: str) -> None:
        self._dsn, self._slot = dsn, slot
        self._last: SlotBacklog | None = None

    def start(self, wait: Callable[[float], bool]) -> None:
        """wait  sleeps so many seconds; True: the process stops"""
        threading.Thread(target=self._run, args=(wait,), name="slot-watch", daemon=True).start()

    def values(self) -> dict[str, Any]:
        """retained_bytes, safe_bytes, limit_bytes, wal_status, trouble (in words, "" for none); None is unknown."""
        last = self._last
        told = asdict(last) if last else dict.fromkeys(("retained_bytes", "safe_bytes", "limit_bytes", "wal_status"))
        return {"slot": self._slot, **told, "trouble": self.trouble()}

    def trouble(self) -> str:
        last = self._last
        return last.trouble(self._slot) if last else ""

    def _run(self, wait: Callable[[float], bool]) -> None:
        while True:
            with suppress(psycopg.Error), psycopg.connect(self._dsn, **CONNECTION) as connection:
                while True:
                    self._take(read_backlog(connection, self._slot))
                    if wait(EVERY_S):
                        return
            self._take(None)
            if wait(EVERY_S):
                return

    def _take(self, backlog: SlotBacklog | None) -> None:
        self._last = backlog
        retained, used = (backlog.retained_bytes, backlog.used) if backlog else (None, None)
        metrics.SLOT_RETAINED.labels(self._slot).set(nan if retained is None else retained)  # no number, not an old one
        metrics.SLOT_USED.labels(self._slot).set(nan if used is None else used)
