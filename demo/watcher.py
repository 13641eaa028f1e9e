"""A reader of the boards while things go wrong: no number of a window may ever go back."""

import contextlib
import threading
import time
from typing import Any

import redis

from sinks.redis_layout import SUMMARY_FIELD, Group

EVERY_S = 0.05
WINDOWS_BACK, WINDOWS_AHEAD = 4, 1


class Watcher:
    """Polls the windows around now. client: of Redis, for this thread alone; every_s: seconds between two looks

    went_back  (key, content, number before, number now)
    """

    def __init__(self, client: Any, layout: Group, partitions: int, every_s: float = EVERY_S) -> None:
        self._every_s = every_s
        self._client = client
        self._layout, self._partitions = layout, partitions
        self._seen: dict[tuple[str, bytes], int] = {}
        self.went_back: list[tuple[str, str, int, int]] = []
        self.polls = 0
        self._watching = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def look_away(self) -> Any:
        """While this is held nothing is read: Redis is about to lose acknowledged writes, and numbers may go back."""
        return self._watching

    def forget(self) -> None:
        self._seen.clear()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            with self._watching, contextlib.suppress(redis.RedisError):
                self._look()

    def _look(self) -> None:
        length_s = 60 * self._layout.window_minutes
        now = int(time.time()) // length_s
        keys = [
            self._layout.partition(partition).totals("window", window * length_s)
            for window in range(now - WINDOWS_BACK, now + WINDOWS_AHEAD + 1)
            for partition in range(self._partitions)
        ]
        pipeline = self._client.pipeline(transaction=False)
        for key in keys:
            pipeline.hgetall(key)
        for key, rows in zip(keys, pipeline.execute(), strict=True):
            for content, value in rows.items():
                if content == SUMMARY_FIELD:
                    continue
                events, before = int.from_bytes(value[:8], "little"), self._seen.get((key, content), 0)
                if events < before:
                    self.went_back.append((key, content.decode(), before, events))
                self._seen[key, content] = events
        self.polls += 1
