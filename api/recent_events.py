"""The newest events of contents, across minutes and Kafka partitions."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from api.questions import Question
from engagement import boards
from engagement.content_rows import shard_of, tag_of
from engagement.recent import RecentEvent, decoded
from engagement.shards import events_of
from engagement.totals import EVENTS
from sinks.redis_layout import PartitionKeys, crowded_suffix, recent_suffix

AHEAD_S = 300  # an event may lie this far after its Kafka timestamp (engagement/parse.py)
MINUTES = (boards.KEPT_S + AHEAD_S) // boards.MINUTE_S + 1

# Of each content the strings and sorted sets of a partition that hold its newest events, from the newest minute back
# until they are enough. A string is shared by many contents, 4 KB a minute at 500 events/s, so it is read only where
# the content was counted; its sorted sets hold late events, too, which were not.
# KEYS the rows of minutes, newest first; the others lie beside them, in their slot. ARGV[1] how many events, ARGV[2]
# where in a row their number stands, then of each content its id, and how the names of its string and of its sorted set
# go on. Writes nothing.
RECENT = """
local found = {}
for place = 3, #ARGV, 3 do
  local shared, crowded, events = {}, {}, 0
  for number, minute in ipairs(KEYS) do
    crowded[number] = minute .. ARGV[place + 2]
    local row = redis.call('HGET', minute, ARGV[place])
    if row then
      shared[#shared + 1] = redis.call('GET', minute .. ARGV[place + 1]) or ''
      events = events + struct.unpack('<i8', row, ARGV[2])
      if events >= tonumber(ARGV[1]) then break end
    end
  end
  found[#found + 1] = {shared, redis.call('ZUNION', #crowded, unpack(crowded))}
end
return found
"""


def recent_events(
    partitions: Sequence[PartitionKeys], content_ids: Sequence[str], count: int, now_us: int
) -> Question[list[list[dict[str, Any]]]]:
    """Of each content the newest `count` of the last hour, by event_ts, then offset, descending."""
    minutes = boards.last_minutes(now_us + AHEAD_S * 1_000_000, MINUTES)[::-1]
    asked = list(
        chain.from_iterable((each, recent_suffix(shard_of(each)), crowded_suffix(each)) for each in content_ids)
    )

    def put(pipeline: Any) -> None:
        for keys in partitions if content_ids else ():
            rows = [keys.totals("minute", minute) for minute in minutes]
            pipeline.execute_command("EVAL", RECENT, len(rows), *rows, count, 8 * EVENTS + 1, *asked)

    def read(answers: list[Any]) -> list[list[dict[str, Any]]]:
        of_contents = zip(content_ids, zip(*answers, strict=True), strict=True) if answers else ()
        return [_newest(tag_of(each), stored, count, now_us) for each, stored in of_contents] or [[]] * len(content_ids)

    return Question(put, read)


def _newest(
    tag: int, stored: Sequence[tuple[list[bytes], list[bytes]]], count: int, now_us: int
) -> list[dict[str, Any]]:
    """stored: shared strings, and events of the content alone, of each partition"""
    since_us = now_us - boards.KEPT_S * 1_000_000
    # By place: a write that was repeated may have put an event there twice.
    found: dict[tuple[int, int, int], RecentEvent] = {}
    for partition, (shared, crowded) in enumerate(stored):
        events = chain(decoded(b"".join(crowded)), *(events_of(each, tag) for each in shared))
        found |= {
            (event.event_ts_us, event.offset, partition): event for event in events if event.event_ts_us > since_us
        }
    return [boards.recent_event(found[place]) for place in sorted(found, reverse=True)[:count]]
