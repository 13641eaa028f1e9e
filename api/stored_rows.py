"""What rows say that were read of contents, beside their sums."""

from collections.abc import Sequence

from engagement import boards
from engagement.boards import BoardSpan
from sinks.redis_layout import PartitionKeys


def homes_of(
    ids: Sequence[str],
    asked: Sequence[str],
    partitions: Sequence[PartitionKeys],
    rows: Sequence[Sequence[bytes | None]],
) -> dict[str, list[PartitionKeys]]:
    """Of each id the partitions that have a row of it: mostly one, and the others need not be asked for its users.

    rows  of each partition, of each bucket, those of the `asked`"""
    width = len(rows) // len(partitions) if partitions else 0
    column = {content_id: place for place, content_id in enumerate(asked)}
    return {
        content_id: [
            keys
            for number, keys in enumerate(partitions)
            if any(values[column[content_id]] is not None for values in rows[number * width : (number + 1) * width])
        ]
        for content_id in ids
    }


def minutes_of(
    span: BoardSpan, ids: Sequence[str], asked: Sequence[str], rows: Sequence[Sequence[bytes | None]]
) -> dict[str, list[int]]:
    """Of each id its events in each minute of the span. rows: of each partition, of each bucket of it, likewise"""
    column = {content_id: place for place, content_id in enumerate(asked)}
    places = [(column[content_id], [0] * len(span.minutes)) for content_id in ids]
    for number, values in enumerate(rows):
        minute = number % len(span.buckets)
        if minute < len(span.minutes):
            for place, events in places:
                if (value := values[place]) is not None:
                    events[minute] += boards.events_of(value)
    return {content_id: events for content_id, (_, events) in zip(ids, places, strict=True)}
