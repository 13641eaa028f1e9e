"""Every metric: name, unit, meaning, what to do when it moves. Shown by each process on HEALTH_PORT and by the API.

The name ends with the unit; a counter gets `_total` behind it. The help text says the meaning, then `Rises:` or `Flat
while ...:`, and what to do.
"""

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series beside each, which nobody asked for

CAPTURED = Counter(
    "captured_rows",
    "Rows that the capture has written to Kafka. Flat while the table grows: look at the log of the capture.",
    ["topic"],
)
SLOT_RETAINED = Gauge(
    "capture_slot_retained_bytes",
    "Log that PostgreSQL keeps for the capture's slot. Rises: the capture stands still or trails; see its log, and "
    "PostgreSQL's disk.",
    ["slot"],
)
SLOT_USED = Gauge(
    "capture_slot_used_ratio",
    "Share of max_slot_wal_keep_size that is kept, 1 where PostgreSQL gives the slot up; absent without a limit. "
    "Rises: get the capture going, or raise max_slot_wal_keep_size.",
    ["slot"],
)
PROCESSED = Counter(
    "processed_events",
    "Events that left parse and enrich. Flat while Kafka has lag: look at the log of this process.",
    ["topic", "partition"],
)
LATE = Counter(
    "late_events",
    "Events too late for their window. Rises: a producer sends old events, or ALLOWED_LATENESS_SECONDS is too small.",
    ["topic", "partition"],
)
REJECTED = Counter(
    "rejected_events",
    "Records that parse rejected, by reason. Rises: fix the producer, then operations.dead_letters replay.",
    ["topic", "partition", "reason"],
)
SKIPPED = Counter(
    "skipped_events",
    "Debezium updates, deletes and tombstones. Rises: nothing is to be done, facts do not change.",
    ["topic", "partition"],
)
LATENCY = Histogram(
    "processing_latency_seconds",
    "From the Kafka timestamp of a batch's newest record to its acknowledgement by the sink. Rises: the sink is slow.",
    ["sink"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
)
SINK_EVENTS = Counter(
    "sink_events",
    "Events a sink has acknowledged. Flat while processed_events rises: see the sink's last error in /health.",
    ["sink"],
)
SINK_ERRORS = Counter(
    "sink_errors",
    "Failed tries of a sink, retries included. Rises: see the sink's last error in /health.",
    ["sink"],
)
DEAD_LETTERS = Counter(
    "dead_letters",
    "Records written to the dead-letter topic, by sink and reason. Rises: operations.dead_letters list.",
    ["sink", "reason"],
)
BREAKER = Gauge(
    "sink_breaker_open",
    "1 while the sink's breaker is open, else 0. Rises: its destination is down, /health says why; nothing is lost.",
    ["sink"],
)
KAFKA_LAG = Gauge(
    "kafka_lag_seconds",
    "Age of the newest record read from a partition while more waits, else 0. Rises: add processes.",
    ["topic", "partition"],
)
API_REQUESTS = Histogram(
    "api_request_seconds",
    "From a request of the API to the end of its answer, by route and status, without streams. Rises: Redis is slow.",
    ["route", "status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
