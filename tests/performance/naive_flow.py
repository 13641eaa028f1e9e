"""What one writes first in Bytewax: the stock Kafka source, an event per item, the stock window per content.

    NAIVE_BOOTSTRAP=... NAIVE_TOPIC=... python -m bytewax.run tests.performance.naive_flow -r DIR -s 5 -b 0

Ten-minute tumbling windows with ten minutes of lateness: events and milliseconds per content. It computes a small part
of what the pipeline does, and keeps no promise but Bytewax's own.
"""

import json
import os
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.operators.windowing import EventClock, TumblingWindower, fold_window
from bytewax.outputs import DynamicSink, StatelessSinkPartition

Event = dict[str, Any]
Totals = tuple[int, int]


class Nowhere(DynamicSink[Any]):
    def build(self, step_id: str, worker_index: int, worker_count: int) -> StatelessSinkPartition[Any]:
        class Part(StatelessSinkPartition[Any]):
            def write_batch(self, items: list[Any]) -> None:
                pass

        return Part()


def add(totals: Totals, event: Event) -> Totals:
    return totals[0] + 1, totals[1] + (event["duration_ms"] or 0)


def merge(left: Totals, right: Totals) -> Totals:
    return left[0] + right[0], left[1] + right[1]


def flow() -> Dataflow:
    made = Dataflow("naive")
    source = KafkaSource([os.environ["NAIVE_BOOTSTRAP"]], [os.environ["NAIVE_TOPIC"]], tail=False)
    records = op.input("events", made, source)
    events = op.map("parse", records, lambda record: json.loads(record.value))  # type: ignore[union-attr, arg-type]  # as one writes it first
    keyed = op.key_on("content", events, lambda event: event["content_id"])
    clock: EventClock[Event] = EventClock(
        lambda event: datetime.fromisoformat(event["event_ts"]), timedelta(minutes=10)
    )
    windower = TumblingWindower(timedelta(minutes=10), datetime(2025, 1, 1, tzinfo=UTC))
    totals = fold_window("totals", keyed, clock, windower, lambda: (0, 0), add, merge)
    op.output("nowhere", totals.down, Nowhere())
    sys.stdout.write("partition_claimed\n")
    sys.stdout.flush()
    return made
