"""The newest events of a content, across minutes and Kafka partitions."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from api.questions import Question
from engagement import boards
from engagement.content_rows import shard_of, tag_of
from engagement.recent import RecentEvent, decoded
from engagement.shards import events_of
from sinks.redis_layout import PartitionKeys

AHEAD_S = 300  # an event may lie this far after its Kafka timestamp (engagement/parse.py)
MINUTES = (boards.KEPT_S + AHEAD_S) // boards.MINUTE_S + 1

# All minutes of a partition by one call (its keys lie in one slot): two commands for each cost the client 6 ms.
# KEYS strings of a shard, then as many sorted sets of the content. Writes nothing.
RECENT = """
return {
  redis.call('MGET', unpack(KEYS, 1, #KEYS / 2)),
  redis.call('ZUNION', #KEYS / 2, unpack(KEYS, #KEYS / 2 + 1)),
}
"""


def recent_events(
    partitions: Sequence[PartitionKeys], content_id: str, count: int, now_us: int
) -> Question[list[dict[str, Any]]]:
    """The newest `count` of the last hour, by event_ts, then offset, descending."""
    minutes = boards.last_minutes(now_us + AHEAD_S * 1_000_000, MINUTES)
    shard, tag = shard_of(content_id), tag_of(content_id)
    since_us = now_us - boards.KEPT_S * 1_000_000

    def put(pipeline: Any) -> None:
        for keys in partitions:
            pipeline.execute_command("EVAL", RECENT, 2 * MINUTES, *_keys(keys, minutes, shard, content_id))

    def read(answers: list[Any]) -> list[dict[str, Any]]:
        # By place: a write that was repeated may have put an event there twice.
        found: dict[tuple[int, int, int], RecentEvent] = {}
        for partition, (shared, crowded) in enumerate(answers):
            events = chain(decoded(b"".join(crowded)), *(events_of(held, tag) for held in shared if held is not None))
            found |= {
                (event.event_ts_us, event.offset, partition): event for event in events if event.event_ts_us > since_us
            }
        return [boards.recent_event(found[place]) for place in sorted(found, reverse=True)[:count]]

    return Question(put, read)


def _keys(keys: PartitionKeys, minutes: Sequence[int], shard: str, content_id: str) -> list[str]:
    shared = [keys.recent(minute, shard) for minute in minutes]
    return shared + [keys.crowded_recent(minute, content_id) for minute in minutes]
