"""The pure steps of the hot path over one fixed micro-batch: what bench_steps times and the guard counts."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dataflows.totals import RedisTotals
from engagement.enrich import ContentRow, Contents, enrich
from engagement.events import TYPE_NAMES, decode_plain
from engagement.parse import Header, Integers, parse
from engagement.partner_body import partner_body, partner_events
from engagement.rows import arrow_rows
from sinks.redis_layout import Group
from sinks.redis_write import Write, commands
from sources.positions import PartitionId, Span
from tests.performance.backlog import content_id

CONTENTS = 100_000
KAFKA_MS = 1_754_836_230_000
PARTITION = PartitionId("engagement-events", "topic-id", 0)
LAYOUT = Group("group", "engagement-events", 10)


@dataclass
class Records:
    """As the Kafka source hands them over."""

    span: Span
    offsets: Integers
    keys: list[bytes | None]
    values: list[bytes | None]
    timestamps_ms: Integers
    headers: list[list[Header] | None] | None = None


@dataclass(frozen=True)
class Nothing:
    """What an empty Redis holds of a partition."""

    offset_next: int | None = None
    watermark_us: int = 0
    newest_ms: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    periods: tuple[Any, ...] = ()


def records(values: Sequence[bytes]) -> Records:
    count = len(values)
    span = Span(PARTITION, "owner", 0, count)
    times = np.full(count, KAFKA_MS, np.int64)
    return Records(span, np.arange(count, dtype=np.int64), [b"key"] * count, list(values), times)


def rows(count: int) -> list[dict[str, Any]]:
    """Always the same: contents by Zipf's law, event times within half a minute."""
    draw = random.Random(1)
    popular = [1 / rank for rank in range(1, CONTENTS + 1)]
    chosen = draw.choices(range(CONTENTS), popular, k=count)
    return [
        {
            "id": number,
            "content_id": content_id(chosen[number]),
            "user_id": f"0b5d5b5e-1111-4222-8333-{draw.randrange(10**6):012}",
            "event_type": draw.choice(TYPE_NAMES),
            "event_ts": f"2025-08-10T14:30:{draw.randrange(30):02}.{draw.randrange(10**6):06}Z",
            "duration_ms": draw.randrange(3_000_000),
            "device": "ios",
            "raw_payload": {"app": "4.2", "n": draw.randrange(100)},
        }
        for number in range(count)
    ]


def encoded(each: Any) -> bytes:
    return json.dumps(each, separators=(",", ":")).encode()


def envelope(of: dict[str, Any]) -> dict[str, Any]:
    """As Debezium wraps a row."""
    after = of | {"raw_payload": encoded(of["raw_payload"]).decode()}
    return {"before": None, "after": after, "source": {"lsn": 67854080, "table": "engagement_events"}, "op": "c"}


def steps(count: int) -> dict[str, Callable[[], Any]]:
    """Name -> the step over `count` events; each may be called again and again."""
    made = rows(count)
    plain = records([encoded(each) for each in made])
    contents = Contents()
    contents.put([ContentRow(content_id(n), "slug", "A title", "video", 1800) for n in range(CONTENTS)])
    totals = RedisTotals(lambda span: Nothing(), 10, 600)
    parsed = parse(plain)
    enriched = enrich(parsed, contents)
    partial = totals.sum_up(enriched)
    [update] = totals.step(None).on_batch([partial])
    everything = range(len(enriched))
    return {
        "decode only": lambda: [decode_plain(value) for value in plain.values],  # type: ignore[arg-type]
        "parse": lambda: parse(plain),
        "enrich": lambda: enrich(parsed, contents),
        "totals, partial": lambda: totals.sum_up(enriched),
        "totals, added up": lambda: totals.step(None).on_batch([partial]),
        "Redis transaction": lambda: commands(Write(update.span, [update], {}, count), LAYOUT, landed=False),
        "BigQuery columns": lambda: arrow_rows(enriched, everything),
        "partner bodies": lambda: partner_body(partner_events(enriched, everything)),
    }


def redis_commands(made: Sequence[tuple[Any, ...]]) -> int:
    """How many commands Redis executes: those of the transaction, and one or two for each key of its script."""
    return sum(2 * each[2] if each[0] == "EVAL" else 1 for each in made)
