"""A reader of the boards while things go wrong: no number of a window may ever go back."""

import contextlib
import threading
import time
from typing import Any

import redis

from engagement import boards
from sinks.redis_layout import SUMMARY_FIELD, Group

EVERY_S = 0.05
# KEYS hashes: their fields and values in turn, hash by hash. Writes nothing. One call of a partition: a command of each
# minute costs the client more than Redis.
ROWS = """
local found = {}
for number, key in ipairs(KEYS) do found[number] = redis.call('HGETALL', key) end
return found
"""
WINDOWS_BACK, WINDOWS_AHEAD = 4, 1


class Watcher:
    """Polls the windows around now. client: of Redis, for this thread alone; every_s: seconds between two looks

    went_back  ((Kafka partition, start of the window in seconds), content, events before, events now)
    """

    def __init__(self, client: Any, layout: Group, partitions: int, every_s: float = EVERY_S) -> None:
        self._every_s = every_s
        self._client = client
        self._layout, self._partitions = layout, partitions
        self._seen: dict[tuple[int, int, bytes], int] = {}
        self.went_back: list[tuple[tuple[int, int], str, int, int]] = []
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
        for place, events in (found := self._read()).items():
            before = self._seen.get(place, 0)
            if events < before:
                partition, start_s, content = place
                self.went_back.append(((partition, start_s), content.decode(), before, events))
        self._seen |= found
        self.polls += 1

    def _read(self) -> dict[tuple[int, int, bytes], int]:
        """Events by partition, start of the window, and content: each the sum of the window's buckets."""
        now_s, minutes = int(time.time()), self._layout.window_minutes
        spans = [boards.window_at(now_s + 60 * minutes * n, minutes) for n in range(-WINDOWS_BACK, WINDOWS_AHEAD + 1)]
        buckets = [(span.start_s, bucket) for span in spans for bucket in span.buckets]
        pipeline = self._client.pipeline(transaction=False)
        for partition in range(self._partitions):
            keys = self._layout.partition(partition)
            pipeline.execute_command("EVAL", ROWS, len(buckets), *(keys.totals(*bucket) for _, bucket in buckets))
        found: dict[tuple[int, int, bytes], int] = {}
        for partition, hashes in enumerate(pipeline.execute()):
            for (start_s, _), rows in zip(buckets, hashes, strict=True):
                for content, value in zip(rows[::2], rows[1::2], strict=True):
                    if content != SUMMARY_FIELD:
                        place = (partition, start_s, content)
                        found[place] = found.get(place, 0) + int.from_bytes(value[:8], "little")
        return found
