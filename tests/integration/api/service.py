"""The API over what a sink has written, asked at a moment of the test's choice."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx

from api.app import create_app
from api.observer import Observer
from api.queries import TotalsReader
from api.read_process import in_threads
from engagement.enrich import ContentRow, Contents
from engagement.totals import partial_totals
from engagement.totals_state import PartitionTotals
from sinks.redis import RedisSink
from sinks.redis_client import connect
from sinks.redis_status import StatusBoard
from sources.positions import PartitionId
from tests.integration.sinks.redis_totals import OPTIONS, keys_of, make_sink
from tests.unit.engagement.totals_batches import NOON_MS, PARTITION, Counted, Record, batch, count

MINUTE = 60_000
NOW_MS = NOON_MS + 15 * MINUTE + 30_000  # in the middle of a window


class Service:
    """The API over what a sink has written, asked at NOW_MS."""

    def __init__(self, url: str, group: str) -> None:
        self.sink: RedisSink = make_sink(url, group)
        self.counted: list[Counted] = []
        client = connect(url)
        self.reader = TotalsReader(client, keys_of(group), lateness_seconds=600)
        self.now_us = NOW_MS * 1000
        self.status = StatusBoard(client, group)
        self.observer = Observer(self.reader, self.status, began=NOW_MS / 1000)
        self.app = create_app(in_threads(self.reader), self.observer, now_us=lambda: self.now_us)

    def write(self, partition: int, records: Sequence[Record], known: Sequence[str]) -> None:
        """All of a partition's events, in two batches, and the contents known by then."""
        of, middle = PartitionId(PARTITION.topic, PARTITION.topic_id, partition), len(records) // 2
        self.sink.claim(of, "owner")
        batches = batch(records[:middle], 0, of), batch(records[middle:], middle, of)
        update = PartitionTotals(of, 0, **OPTIONS).add([partial_totals(each, **OPTIONS) for each in batches])
        contents = Contents()
        rows = contents.put(
            [ContentRow(content_id, "slug", f"Title {content_id}", "video", 100) for content_id in known]
        )
        update.contents = contents.stored(rows)
        self.sink.write([update])
        self.counted.append(count(records))

    def ask(
        self, path: str, query: dict[str, Any] | None = None, headers: dict[bytes, bytes] | None = None
    ) -> httpx.Response:
        async def get() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
                return await client.get(path, params=query or None, headers=headers)

        return asyncio.run(get())

    def look(self) -> None:
        """What the observer's thread does once a second."""
        assert self.observer.look_at_redis(self.now_us / 1e6)

    def get(self, path: str, status: int = 200, **query: Any) -> Any:
        answer = self.ask(path, query)
        assert answer.status_code == status, answer.text
        return answer.json()

    def board(self, kind: str, starts_s: Sequence[int], known: Sequence[str]) -> list[tuple[str, int, int, int]]:
        """(content, score, events, users) in order, from the numbers counted one by one."""
        scores: Counter[str] = Counter()
        events: Counter[str] = Counter()
        users: dict[str, set[str]] = {}
        for counted in self.counted:
            for (of, start_s, content_id), row in counted.rows.items():
                if of == kind and start_s in starts_s and content_id in known:
                    scores[content_id] += row[8]
                    events[content_id] += row[0]
            for (_, start_s, content_id), found in counted.users.items():
                if min(starts_s) <= start_s < max(starts_s) + (60 if kind == "minute" else 600):
                    users.setdefault(content_id, set()).update(found)
        order = sorted(scores, key=lambda content_id: (-scores[content_id], -events[content_id], content_id))
        return [(each, scores[each], events[each], len(users.get(each, ()))) for each in order]
