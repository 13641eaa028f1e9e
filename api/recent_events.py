"""The newest events of a content, across minutes and Kafka partitions."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from engagement import boards
from engagement.content_rows import shard_of, tag_of
from engagement.recent import RecentEvent, decoded
from engagement.shards import events_of
from sinks.redis_layout import PartitionKeys

Pipelined = Callable[[Callable[[Any], list[Any]]], list[Any]]

AHEAD_S = 300  # an event may lie this far after its Kafka timestamp (engagement/parse.py)
MINUTES = (boards.KEPT_S + AHEAD_S) // boards.MINUTE_S + 1


def recent_events(
    pipelined: Pipelined, partitions: Sequence[PartitionKeys], content_id: str, count: int, now_us: int
) -> list[dict[str, Any]]:
    """The newest `count` of the last hour, by event_ts, then offset, descending."""
    minutes = boards.last_minutes(now_us + AHEAD_S * 1_000_000, MINUTES)
    shard, tag = shard_of(content_id), tag_of(content_id)
    answers = pipelined(
        lambda pipeline: [
            [
                pipeline.get(keys.recent(minute, shard)),
                pipeline.zrange(keys.crowded_recent(minute, content_id), 0, -1),
            ]
            for keys in partitions
            for minute in minutes
        ]
    )
    since_us = now_us - boards.KEPT_S * 1_000_000
    # By place: a write that was repeated may have put an event there twice.
    found = {
        (event.event_ts_us, event.offset, number // (2 * len(minutes))): event
        for number, answer in enumerate(answers)
        for event in _events(answer, tag)
        if event.event_ts_us > since_us
    }
    return [boards.recent_event(found[place]) for place in sorted(found, reverse=True)[:count]]


def _events(answer: bytes | list[bytes] | None, tag: int) -> Iterator[RecentEvent]:
    """Of a shard, or of a sorted set."""
    if isinstance(answer, list):
        yield from decoded(b"".join(answer))
    elif answer is not None:
        yield from events_of(answer, tag)
