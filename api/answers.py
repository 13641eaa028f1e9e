"""Answers that many ask for at once: computed once, encoded once, handed to all."""

import asyncio
import time
from collections.abc import Callable, Hashable
from typing import Any

import msgspec
from fastapi import Response
from fastapi.concurrency import run_in_threadpool

KEPT_MAX = 1000


class Answers:
    """JSON by key. Everything but the computing runs on the event loop's thread.

    fresh_s  an answer is handed out for so long; 0: each is computed anew
    stale_s  and for so long while the next one is being computed, so that nobody waits for it
    """

    def __init__(self, fresh_s: float = 0.0, stale_s: float = 0.0) -> None:
        self._fresh_s, self._stale_s = fresh_s, stale_s
        self._held: dict[Hashable, tuple[float, bytes]] = {}  # computed at, monotonic seconds
        self._under_way: dict[Hashable, asyncio.Task[bytes]] = {}

    async def get(self, key: Hashable, compute: Callable[[], Any]) -> Response:
        """The answer to `key`, computed on a thread where there is none that is new enough. Raises what it raises."""
        at, body = self._held.get(key, (float("-inf"), b""))
        age_s = time.monotonic() - at
        if age_s >= self._fresh_s:
            task = self._under_way.get(key) or self._begin(key, compute)
            if age_s >= self._stale_s:
                body = await asyncio.shield(task)  # whoever hangs up takes it from no one else
        return Response(body, media_type="application/json")

    def _begin(self, key: Hashable, compute: Callable[[], Any]) -> "asyncio.Task[bytes]":
        asked_at = time.monotonic()

        async def run() -> bytes:
            try:
                body = await run_in_threadpool(lambda: msgspec.json.encode(compute()))
                if len(self._held) >= KEPT_MAX:
                    self._held.clear()
                self._held[key] = asked_at, body
                return body
            finally:
                del self._under_way[key]

        task = self._under_way[key] = asyncio.create_task(run())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be waiting for it
        return task
