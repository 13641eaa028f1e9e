"""A sink on a real Redis, fed by the real totals, and everything that lies in Redis afterwards, read plainly."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import redis

from engagement.content_rows import tag_of
from engagement.recent import decoded
from engagement.shards import USER_RECORD, events_of
from engagement.totals import PartialTotals, partial_totals
from engagement.totals_state import stored_periods
from engagement.totals_step import TotalsStep
from engagement.totals_update import Update
from sinks.redis import RedisSink
from sinks.redis_layout import Group
from sources.positions import PositionGap
from tests.unit.engagement.totals_batches import IDS, PARTITION, Record, batch

OPTIONS = {"window_minutes": 10, "lateness_seconds": 600}
SOME = [Record(1000 * i, 1000 * i, user=f"u{i % 3}", duration_ms=900) for i in range(6)]


def make_sink(url: str, group: str, **options: Any) -> RedisSink:
    buckets = partial(stored_periods, **OPTIONS)
    return RedisSink(url, group=group, partitions=[0], window_minutes=10, stored_periods=buckets, **options)


def keys_of(group: str, topic: str = PARTITION.topic) -> Group:
    return Group(group, topic, 10)


def summed(records: Sequence[Record], offset_from: int = 0, owner: str = "owner") -> PartialTotals:
    made = batch(records, offset_from)
    made.span = type(made.span)(made.span.partition, owner, made.span.offset_from, made.span.offset_next)
    return partial_totals(made, **OPTIONS)


class Process:
    """One life of a flow: claims the partition, resumes from a snapshot or from Redis, then takes batches."""

    def __init__(self, sink: RedisSink, owner: str, snapshot: bytes | None = None) -> None:
        self.sink, self.owner = sink, owner
        self.claim = sink.claim(PARTITION, owner)
        self.step = TotalsStep(snapshot, sink.load, gap=PositionGap, **OPTIONS)
        self._part = sink.build_part("redis", str(PARTITION.partition), None)

    def updates(self, records: Sequence[Record], offset_from: int) -> list[Update]:
        return self.step.on_batch([summed(records, offset_from, self.owner)])

    def take(self, records: Sequence[Record], offset_from: int) -> list[Update]:
        updates = self.updates(records, offset_from)
        self.write(updates)
        return updates

    def write(self, updates: Sequence[Update]) -> None:
        """Returns when they are settled, as before a snapshot."""
        self._part.write_batch(list(updates))
        self._part.snapshot()


def everything(url: str, group: str) -> dict[str, Any]:
    """All keys of a group but the token of the owner. Users and recent events by what they say: where they lie, and in
    which order, depends on how the batches were cut."""
    client = redis.Redis.from_url(url)
    found: dict[str, Any] = {}
    contents = {tag_of(content_id): content_id for content_id in (*IDS, "unknown")}
    for key in client.scan_iter(match=f"{{{group}/*"):
        name, kind = key.decode(), client.type(key)
        stem, _, what = name.rpartition(":")
        if what.startswith("users/"):
            for tag, _ in set(np.frombuffer(client.get(key), USER_RECORD).tolist()):
                users = f"{stem}:users:{contents[tag]}"
                found[users] = found.get(users, 0) + 1
        elif what.startswith("recent/"):
            for tag, content_id in contents.items():
                if events := set(events_of(client.get(key), tag)):
                    found.setdefault(f"{stem}:recent:{content_id}", set()).update(events)
        elif stem.endswith(":recent"):
            for entry in client.zrange(key, 0, -1):
                found.setdefault(name, set()).update(decoded(entry))
        elif kind == b"hash":
            found[name] = {field: value for field, value in client.hgetall(key).items() if field != b"owner"}
        elif kind == b"zset":
            found[name] = client.zrange(key, 0, -1, withscores=True)
        elif kind == b"set":
            found[name] = client.smembers(key)
        else:
            found[name] = client.pfcount(key)
    client.close()
    return found
