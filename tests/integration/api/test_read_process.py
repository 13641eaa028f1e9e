"""Totals that are read in another process: answers and failures come back, a reader that dies is replaced, and none is
left when its asker ends."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest
import redis

from api import reads
from api.queries import TotalsReader
from api.read_process import ReadProcess
from api.reads import Wanted
from settings import Settings
from tests.integration.api.test_process import running
from tests.process_tree import children_of, lives

NOW_US = 1_800_000_000_000_000


def settings(url: str, group: str) -> Settings:
    return Settings.from_env("redis", env={"REDIS_URL": url, "KAFKA_CONSUMER_GROUP": group})


def whose(totals: TotalsReader) -> int:
    """The process that reads. Here, so that a reader can import it."""
    return os.getpid()


def test_answers_and_failures_come_back_to_whoever_asked(redis_url: str, unique: str) -> None:
    async def asked() -> None:
        read = ReadProcess(settings(redis_url, unique))
        wanted = [Wanted("a"), Wanted("a", 10)]
        board, windows, contents, failure = await asyncio.gather(
            read(reads.top_content, "rolling", 10, NOW_US),
            read(TotalsReader.windows, 4, NOW_US),
            read(reads.contents, wanted, {"a": {}}, now_us=NOW_US),
            read(TotalsReader.windows, 4, None),  # type: ignore[arg-type]
            return_exceptions=True,
        )
        assert isinstance(board, reads.EncodedBoard)
        assert board.first(10).endswith(b'"rows":[]}')
        assert isinstance(windows, list)
        assert len(windows) == 4
        assert contents == [None, None]
        assert isinstance(failure, TypeError)
        assert "api/queries.py" in failure.__notes__[0], "where it was raised"
        assert await read(whose) != os.getpid()

    asyncio.run(asyncio.wait_for(asked(), 60))


def test_one_who_goes_away_leaves_his_answer_to_nobody_else(redis_url: str, unique: str) -> None:
    async def asked() -> None:
        read = ReadProcess(settings(redis_url, unique))
        for _ in range(20):
            gone = asyncio.create_task(read(TotalsReader.windows, 4, NOW_US))
            await asyncio.sleep(0.0005)
            gone.cancel()
            assert await read(reads.marks) == []

    asyncio.run(asyncio.wait_for(asked(), 60))


def test_a_reader_that_dies_is_replaced(redis_url: str, unique: str) -> None:
    async def asked() -> None:
        read = ReadProcess(settings(redis_url, unique))
        first = await read(whose)
        os.kill(first, signal.SIGKILL)
        second = await read(whose)
        assert second != first
        assert await read(reads.marks) == []
        assert os.getsid(second) == second, "Ctrl-C at a terminal is for the asker, which decides"

    asyncio.run(asyncio.wait_for(asked(), 60))


def test_redis_away_is_redis_away_here_too(unique: str) -> None:
    async def asked() -> None:
        read = ReadProcess(settings("redis://127.0.0.1:1/0", unique))
        with pytest.raises(redis.ConnectionError, match=r"127\.0\.0\.1:1"):
            await read(reads.marks)

    asyncio.run(asyncio.wait_for(asked(), 60))


def test_none_is_left_after_kill_9_while_redis_is_silent(
    redis_server: Any, unique: str, wait_for: Callable[..., Any]
) -> None:
    with running({"REDIS_URL": redis_server.url, "KAFKA_CONSUMER_GROUP": unique}, wait_for) as (url, api):
        assert httpx.get(f"{url}/top-content", timeout=30).status_code == 200
        family = children_of(api.pid)
        assert len(family) >= 2
        redis_server.pause()
        try:
            time.sleep(0.5)  # the stream's look at Redis is under way

            def ask() -> None:
                with suppress(httpx.HTTPError):
                    httpx.get(f"{url}/top-content", timeout=60)

            asking = threading.Thread(target=ask)
            asking.start()
            time.sleep(0.5)
            api.kill()
            wait_for(lambda: not any(map(lives, family)), timeout=5, message="the readers to end")
            asking.join(10)
        finally:
            redis_server.resume()
