"""The pipeline's numbers as one JSON object, and as Prometheus text: counters of the totals, status of processes."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

import metrics
from api.partition_positions import PartitionPosition

HELP = {
    "processed_events_total": "Events that the totals have taken in.",
    "late_events_total": "Events too late for their window.",
    "rejected_events_total": "Records that parse rejected.",
    "skipped_events_total": "Debezium updates, deletes and tombstones.",
    "processing_latency_seconds": "Kafka timestamp to acknowledgement, mean since the start, of the slowest sink.",
    "processing_latency_seconds_by_sink": "Kafka timestamp to acknowledgement, mean since the start.",
    "sink_errors_total": "Failed tries of a sink, retries included, of the living processes.",
    "kafka_lag_seconds": "Age of the newest record read while more waits, else 0: the largest of all partitions.",
    "events_per_second": "Events per second that reach the totals.",
}


def as_json(positions: Iterable[PartitionPosition], processes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """positions: of the totals; processes: name -> what it says of itself.

    processing_latency_seconds  from a batch's newest Kafka timestamp to its acknowledgement: the mean since the
                                processes began, of the slowest sink; null before the first batch
    """
    positions = list(positions)
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
    """The numbers of `as_json` as text: `_total` are counters; those by sink carry a label; null ones are left out."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(numbers))
    registry.register(metrics.API_REQUESTS)  # the one that is this process's own
    return generate_latest(registry)


def troubles(processes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the processes wait for or fail at, one sentence each, naming the process and its sink."""
    found = []
    for name, said in processes.items():
        if waiting := said.get("process", {}).get("waiting"):
            found.append(f"{name}: {waiting}")
        for sink, state in said.get("sinks", {}).items():
            if error := state.get("error") or ("its breaker is open" if state.get("breaker") == "open" else ""):
                found.append(f"{name}: {sink}: {error}")
    return found


class _Families(Collector):
    """The numbers as families of samples."""

    def __init__(self, numbers: Mapping[str, Any]) -> None:
        self._numbers = numbers

    def collect(self) -> Iterator[Metric]:
        for name, value in self._numbers.items():
            by_sink = value if isinstance(value, dict) and name != "processes" else None
            if by_sink is None and not isinstance(value, int | float):
                continue
            make = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = make(name, HELP[name], labels=[] if by_sink is None else ["sink"])
            for sink, of_sink in ({"": value} if by_sink is None else by_sink).items():
                if of_sink is not None:
                    family.add_metric([sink] if sink else [], of_sink)
            yield family


def _total(positions: Iterable[PartitionPosition], name: str) -> int:
    return sum(position.counters[name] for position in positions)
