"""The stream: the newest state of each kind, for clients of any speed."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

from api.hub import Hub, Key

TICK, ROLLING, TUMBLING = ("tick", ""), ("board", "rolling"), ("board", "tumbling")
KEYS: tuple[Key, ...] = (TICK, ROLLING, TUMBLING)
Event = tuple[str, str, Any]


def parsed(chunk: bytes) -> list[Event]:
    """(kind, id, data) of each event of a chunk."""
    found = []
    for block in chunk.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        if "event" in fields:
            found.append((fields["event"], fields.get("id", ""), json.loads(fields["data"])))
    return found


class Client:
    """One reader of the stream."""

    def __init__(self, hub: Hub, seen: int = 0, keys: tuple[Key, ...] = KEYS, content_id: str = "") -> None:
        self.frames: AsyncIterator[bytes] = hub.events(keys, seen, "now", content_id)

    async def next(self) -> list[Event]:
        return parsed(await asyncio.wait_for(anext(self.frames), 5))


def run(scene: Callable[[Hub], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        await scene(Hub("a1", "build"))

    asyncio.run(main())


def test_a_client_is_greeted_then_told_every_kind() -> None:
    async def scene(hub: Hub) -> None:
        hub.publish({TICK: {"now": 1}, ROLLING: {"rows": []}})
        client = Client(hub)
        first = await anext(client.frames)
        assert first.startswith(b"retry: 2000\n\n")
        assert parsed(first) == [("hello", "", {"build": "build", "now": "now"})]
        assert await client.next() == [("tick", "a1-1", {"now": 1}), ("board", "a1-2", {"rows": []})]

    run(scene)


def test_a_slow_client_gets_the_newest_and_no_queue() -> None:
    async def scene(hub: Hub) -> None:
        client = Client(hub)
        await client.next()
        for now in range(1000):
            hub.publish({TICK: {"now": now}})
        assert await client.next() == [("tick", "a1-1000", {"now": 999})]

    run(scene)


def test_what_has_not_changed_is_not_sent_again() -> None:
    async def scene(hub: Hub) -> None:
        client = Client(hub)
        await client.next()
        hub.publish({TICK: 1, ROLLING: {"rows": [1]}})
        await client.next()
        hub.publish({TICK: 2, ROLLING: {"rows": [1]}})
        assert await client.next() == [("tick", "a1-3", 2)]

    run(scene)


def test_who_comes_back_gets_only_what_is_new() -> None:
    async def scene(hub: Hub) -> None:
        hub.publish({ROLLING: 1, TUMBLING: 1, TICK: 1})
        hub.publish({TUMBLING: 2})
        client = Client(hub, hub.resumed_at("a1-3"))
        await client.next()
        assert await client.next() == [("board", "a1-4", 2)]

    run(scene)


def test_an_id_of_another_life_or_no_id_is_as_none() -> None:
    hub = Hub("a1", "build")
    assert [hub.resumed_at(each) for each in ("b2-7", "", "a1-", "a1-x", "a1--1", "7", "a1-7")] == [0] * 6 + [7]


def test_events_of_one_chunk_come_by_id_so_that_the_last_stands_for_all() -> None:
    async def scene(hub: Hub) -> None:
        hub.publish({ROLLING: 1, TICK: 1})
        hub.publish({ROLLING: 2})
        client = Client(hub)
        await client.next()
        assert [each[1] for each in await client.next()] == ["a1-2", "a1-3"]

    run(scene)


def test_only_watched_contents_are_kept() -> None:
    async def scene(hub: Hub) -> None:
        key = ("content", "x")
        one, two = Client(hub, keys=(key,), content_id="x"), Client(hub, keys=(key,), content_id="x")
        await one.next()
        await two.next()
        assert (hub.watched(), hub.clients) == (["x"], 2)
        hub.publish({key: 1})
        assert await one.next() == [("content", "a1-1", 1)]
        await one.frames.aclose()  # type: ignore[attr-defined]
        assert hub.watched() == ["x"]
        await two.frames.aclose()  # type: ignore[attr-defined]
        assert (hub.watched(), hub.clients) == ([], 0)
        third = Client(hub, keys=(key,), content_id="x")
        await third.next()
        hub.publish({key: 2})
        assert await third.next() == [("content", "a1-2", 2)]

    run(scene)


def test_closing_ends_every_stream() -> None:
    async def scene(hub: Hub) -> None:
        client = Client(hub)
        async with aclosing(client.frames):  # type: ignore[type-var]
            await client.next()
            waiting = asyncio.create_task(anext(client.frames, None))  # type: ignore[arg-type]
            await asyncio.sleep(0)
            hub.close()
            assert await asyncio.wait_for(waiting, 5) is None

    run(scene)
