"""Where the totals of each Kafka partition stand."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from api.questions import Question
from engagement.totals import NEVER
from sinks.redis_layout import Group

COUNTERS = ("events", "late", "rejected", "skipped")


@dataclass(frozen=True, slots=True)
class PartitionPosition:
    """offset_next None: claimed, nothing written yet."""

    partition: int
    offset_next: int | None
    watermark_us: int
    newest_ms: int
    counters: dict[str, int]


def stand(layout: Group, partitions: Sequence[int]) -> Question[list[PartitionPosition]]:
    """Of each of these partitions."""

    def put(pipeline: Any) -> None:
        for partition in partitions:
            pipeline.hgetall(layout.partition(partition).position)

    return Question(put, lambda answers: [_position(*each) for each in zip(partitions, answers, strict=True)])


def watermarks_of(positions: Iterable[PartitionPosition]) -> list[int]:
    """Of those that have counted anything."""
    return [position.watermark_us for position in positions if position.offset_next is not None]


def newest_us_of(positions: Iterable[PartitionPosition]) -> int | None:
    """Largest min(event_ts, Kafka timestamp) counted so far."""
    watermark = max((position.watermark_us for position in positions), default=NEVER)
    return None if watermark == NEVER else watermark


def _position(partition: int, stored: dict[bytes, bytes]) -> PartitionPosition:
    position = {name.decode(): value for name, value in stored.items()}
    return PartitionPosition(
        partition,
        int(position["next"]) if "next" in position else None,
        int(position.get("watermark_us", NEVER)),
        int(position.get("newest_ms", -1)),
        {name: int(position.get(f"total_{name}", 0)) for name in COUNTERS},
    )
