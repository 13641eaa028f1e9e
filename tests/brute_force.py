"""What the totals must be, computed the slow way from the records themselves: Decimal, one event at a time.

Written from DESIGN section 3 alone; shares nothing with engagement/totals.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal

WEIGHTS = {"play": 1, "pause": Decimal("0.5"), "finish": 3, "click": Decimal("0.3")}
TYPES = ("play", "pause", "finish", "click")


@dataclass(frozen=True)
class Seen:
    """One good record as Kafka holds it."""

    partition: int
    offset: int
    kafka_ms: int
    event: Mapping[str, object]

    @property
    def event_us(self) -> int:
        moment = datetime.fromisoformat(str(self.event["event_ts"]).replace("Z", "+00:00"))
        return int(moment.replace(microsecond=0).timestamp()) * 1_000_000 + moment.microsecond


@dataclass
class Expected:
    """By (Kafka partition, start in seconds), then content: nine integers, as engagement.totals.MEASURES lists them."""

    minutes: dict[tuple[int, int], dict[str, list[int]]] = field(default_factory=lambda: defaultdict(dict))
    windows: dict[tuple[int, int], dict[str, list[int]]] = field(default_factory=lambda: defaultdict(dict))
    late: dict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))
    users: dict[tuple[int, str], set[str]] = field(default_factory=lambda: defaultdict(set))


def totals(
    seen: Iterable[Seen], lengths: Mapping[str, int | None], *, window_minutes: int = 10, lateness_s: int = 600
) -> Expected:
    """Records in any order; each partition's are taken in offset order."""
    expected = Expected()
    watermark: dict[int, int] = {}
    for record in sorted(seen, key=lambda record: (record.partition, record.offset)):
        before = watermark.get(record.partition, -(10**18))
        event_us = record.event_us
        watermark[record.partition] = max(before, min(event_us, record.kafka_ms * 1000))
        content = record.event.get("content_id")
        if content is None:
            continue
        for buckets, seconds in ((expected.minutes, 60), (expected.windows, window_minutes * 60)):
            start = event_us // (seconds * 1_000_000) * seconds
            if before < (start + seconds + lateness_s) * 1_000_000:
                row = buckets[record.partition, start].setdefault(str(content), [0] * 9)
                for column, value in enumerate(_measures(record.event, lengths.get(str(content)))):
                    row[column] += value
                if seconds > 60 and record.event.get("user_id"):
                    expected.users[start, str(content)].add(str(record.event["user_id"]))
            elif seconds > 60:
                expected.late[record.partition, start] += 1
    return expected


def _measures(event: Mapping[str, object], length: int | None) -> list[int]:
    kind, duration = str(event["event_type"]), event.get("duration_ms")
    percentage: Decimal | None = None
    if duration is not None and length is not None and length > 0:
        exact = Decimal(int(str(duration)) * 100) / Decimal(1000 * length)
        percentage = exact.quantize(Decimal("0.01"), ROUND_HALF_UP)
    share = min(percentage, Decimal(100)) if percentage is not None else Decimal(0)
    score = (WEIGHTS[kind] * (1 + share / 100)).quantize(Decimal("0.001"), ROUND_HALF_UP)
    return [
        1,
        *(int(kind == each) for each in TYPES),
        int(str(duration)) if duration is not None else 0,
        int(percentage * 100) if percentage is not None else 0,
        int(percentage is not None),
        int(score * 1000),
    ]


def decoded(value: bytes) -> dict[str, object]:
    """A record's JSON."""
    event: dict[str, object] = json.loads(value)
    return event
