"""Answers that many ask for at once: computed once, encoded once, handed to all. On the event loop's thread only."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

KEPT_MAX = 1000
ASKED_S = 5.0
TOGETHER_MAX = 50  # reads: more would keep the first of them waiting

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Answers:
    """What was computed, by key.

    fresh_s  an answer is handed out for so long; 0: each is computed anew
    stale_s  and for so long while the next one is being computed, so that nobody waits for it
    """

    def __init__(self, fresh_s: float = 0.0, stale_s: float = 0.0) -> None:
        self._fresh_s, self._stale_s = fresh_s, stale_s
        self._held: dict[Hashable, tuple[float, Any]] = {}  # computed at, monotonic seconds
        self._under_way: dict[Hashable, asyncio.Task[Any]] = {}

    async def get(self, key: Hashable, compute: Callable[[], Awaitable[T]]) -> tuple[T, float]:
        """The answer to `key`, computed where there is none that is new enough, and until when it is fresh (monotonic
        seconds). Raises what `compute` raises."""
        at, answer = self._held.get(key, (float("-inf"), None))
        age_s = time.monotonic() - at
        if age_s >= self._fresh_s:
            task = self._under_way.get(key) or self._begin(key, compute)
            if age_s >= self._stale_s:
                at, answer = await asyncio.shield(task)  # whoever hangs up takes it from no one else
        return answer, at + self._fresh_s

    def _begin(self, key: Hashable, compute: Callable[[], Awaitable[T]]) -> "asyncio.Task[tuple[float, T]]":
        asked_at = time.monotonic()

        async def run() -> tuple[float, T]:
            try:
                answer = await compute()
                if len(self._held) >= KEPT_MAX:
                    self._held.clear()
                held = self._held[key] = asked_at, answer
                return held
            finally:
                del self._under_way[key]

        task = self._under_way[key] = asyncio.create_task(run())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be waiting for it
        return task


class Together(Generic[K, T]):
    """Reads that several ask for at once, made together: what comes while one is under way goes, as a whole, into the
    next. One is under way at a time: the more there is to read, the less of it a read costs.

    read  keys, none of them twice -> the answer to each
    """

    def __init__(self, read: Callable[[list[K]], Awaitable[Sequence[T]]]) -> None:
        self._read = read
        self._waiting: dict[K, asyncio.Future[T]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def get(self, key: K) -> T:
        """The answer to `key`, read after it was asked for. Raises what `read` raises."""
        answer = self._waiting.get(key)
        if answer is None:
            answer = self._waiting[key] = asyncio.get_running_loop().create_future()
            answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be waiting for it
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_waiting())
        return await asyncio.shield(answer)  # whoever hangs up takes it from no one else

    async def _read_waiting(self) -> None:
        try:
            while self._waiting:
                keys = list(self._waiting)[:TOGETHER_MAX]
                asked = [self._waiting.pop(key) for key in keys]
                try:
                    answers = await self._read(keys)
                except Exception as failure:
                    for each in asked:
                        each.set_exception(failure)
                else:
                    for each, answer in zip(asked, answers, strict=True):
                        each.set_result(answer)
        finally:
            self._reading = None


class Longest:
    """How long a list to compute: the longest that was asked for lately holds all the shorter ones."""

    def __init__(self) -> None:
        self._asked: dict[str, dict[int, float]] = {}  # list -> length -> asked at, monotonic seconds

    def of(self, name: str, length: int) -> int:
        """That somebody asks for so many of this list; how many to compute."""
        now = time.monotonic()
        asked = self._asked.setdefault(name, {})
        asked[length] = now
        return max(each for each, at in asked.items() if now - at < ASKED_S)
