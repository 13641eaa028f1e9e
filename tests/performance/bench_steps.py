"""CPU microseconds per event of the pure steps: python -m tests.performance.bench_steps [events per batch]."""

import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engagement.enrich import ContentRow, Contents, enrich
from engagement.events import TYPE_NAMES, decode_plain
from engagement.parse import Header, Integers, parse
from engagement.rows import arrow_rows, partner_bodies
from sources.positions import PartitionId, Span

CONTENTS = 100_000
ROUNDS = 100


@dataclass
class Records:
    span: Span
    offsets: Integers
    keys: list[bytes | None]
    values: list[bytes | None]
    timestamps_ms: Integers
    headers: list[list[Header] | None] | None = None


def records(values: Sequence[bytes]) -> Records:
    count = len(values)
    span = Span(PartitionId("engagement-events", "topic-id", 0), "owner", 0, count)
    times = np.full(count, 1_754_836_230_000, np.int64)
    return Records(span, np.arange(count, dtype=np.int64), [b"key"] * count, list(values), times)


def row(number: int, draw: random.Random) -> dict[str, Any]:
    return {
        "id": number,
        "content_id": content_id(draw.randrange(CONTENTS)),
        "user_id": f"0b5d5b5e-1111-4222-8333-{draw.randrange(10**6):012}",
        "event_type": draw.choice(TYPE_NAMES),
        "event_ts": f"2025-08-10T14:30:{draw.randrange(30):02}.{draw.randrange(10**6):06}Z",
        "duration_ms": draw.randrange(3_000_000),
        "device": "ios",
        "raw_payload": {"app": "4.2", "n": draw.randrange(100)},
    }


def content_id(number: int) -> str:
    return f"123e4567-e89b-12d3-a456-{number:012}"


def envelope(of: dict[str, Any]) -> dict[str, Any]:
    after = of | {"raw_payload": json.dumps(of["raw_payload"])}
    return {"before": None, "after": after, "source": {"lsn": 67854080, "table": "engagement_events"}, "op": "c"}


def measure(name: str, step: Callable[[], object], events: int) -> None:
    """Prints the best of ROUNDS: neighbours on the machine only ever add."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time_ns()
        step()
        best = min(best, time.process_time_ns() - start)
    sys.stdout.write(f"{name:34}{best / events / 1000:8.2f} us/event\n")


def main(events: int) -> None:
    draw = random.Random(1)
    rows = [row(number, draw) for number in range(events)]
    values = [json.dumps(of, separators=(",", ":")).encode() for of in rows]
    plain = records(values)
    envelopes = records([json.dumps(envelope(of), separators=(",", ":")).encode() for of in rows])
    nanoseconds = records([value.replace(b'Z"', b'789Z"') for value in values])
    poison = records([value.replace(b'"duration_ms":', b'"duration_ms":-') for value in values])
    contents = Contents()
    contents.put([ContentRow(content_id(n), "slug", "A title", "video", 1800) for n in range(CONTENTS)])
    parsed = parse(plain)
    enriched = enrich(parsed, contents)
    everything = range(len(enriched))
    sys.stdout.write(f"{events} events of {len(values[0])} bytes a batch, {CONTENTS} contents\n")
    measure("decode only", lambda: [decode_plain(value) for value in values], events)
    measure("parse", lambda: parse(plain), events)
    measure("parse, nanosecond times", lambda: parse(nanoseconds), events)
    measure("parse, Debezium envelopes", lambda: parse(envelopes), events)
    measure("parse, all rejected", lambda: parse(poison), events)
    measure("enrich", lambda: enrich(parsed, contents), events)
    measure("partner bodies", lambda: partner_bodies(enriched, everything), events)
    measure("BigQuery columns", lambda: arrow_rows(enriched, everything), events)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
