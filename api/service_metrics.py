"""The pipeline's numbers as one JSON object, and as Prometheus text: counters of the totals, status of processes."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from api.queries import PartitionPosition


def as_json(positions: Iterable[PartitionPosition], status: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """positions: of the totals; status: name of a process -> what it says of itself, each value as JSON.

    processing_latency_seconds  from a batch's newest Kafka timestamp to its acknowledgement: the mean since the
                                processes began, of the slowest sink; null before the first batch
    """
    positions = list(positions)
    processes = {name: {key: json.loads(value) for key, value in said.items()} for name, said in status.items()}
    # Each deployment reads every event: those that keep the boards count.
    counting = [said for said in processes.values() if "redis" in said.get("sinks", {})]
    errors: dict[str, int] = {}
    latency: dict[str, tuple[float, int]] = {}
    lag = 0.0
    for said in processes.values():
        for sink, state in said.get("sinks", {}).items():
            errors[sink] = errors.get(sink, 0) + int(state.get("errors", 0))
            seconds, batches = latency.get(sink, (0.0, 0))
            latency[sink] = (
                seconds + float(state.get("latency_seconds_sum", 0)),
                batches + int(state.get("latency_count", 0)),
            )
        lag = max([lag, *(float(partition.get("lag_seconds", 0)) for partition in said.get("partitions", []))])
    means = {sink: round(seconds / batches, 6) if batches else None for sink, (seconds, batches) in latency.items()}
    return {
        "processed_events_total": _total(positions, "events"),
        "late_events_total": _total(positions, "late"),
        "rejected_events_total": _total(positions, "rejected"),
        "skipped_events_total": _total(positions, "skipped"),
        "processing_latency_seconds": max((mean for mean in means.values() if mean is not None), default=None),
        "processing_latency_seconds_by_sink": means,
        "sink_errors_total": errors,
        "kafka_lag_seconds": lag,
        "events_per_second": round(sum(said["events"]["per_second"] for said in counting), 1),
        "processes": processes,
    }


def as_prometheus(numbers: Mapping[str, Any]) -> bytes:
    """The numbers of `as_json` as text; those by sink carry a label."""
    registry = CollectorRegistry()
    for name, value in numbers.items():
        if isinstance(value, int | float):
            Gauge(name, f"{name} as in /metrics", registry=registry).set(value)
    by_sink = Gauge("sink_errors_total", "Failed tries of a sink", ["sink"], registry=registry)
    for sink, count in numbers["sink_errors_total"].items():
        by_sink.labels(sink).set(count)
    return generate_latest(registry)


def _total(positions: Iterable[PartitionPosition], name: str) -> int:
    return sum(position.counters[name] for position in positions)
