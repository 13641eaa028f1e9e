"""What this process has done so far: told to Redis every second, and asked for on HEALTH_PORT. Never in the way."""

import json
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import redis
from prometheus_client import REGISTRY
from redis.exceptions import RedisClusterException

from settings import Settings
from sinks.redis_client import connect
from sinks.redis_status import StatusBoard
from sources.kafka import PartitionStatus

EVERY_S = 1.0
RATE_OVER_S = 10


@dataclass
class Progress:
    """Counted by the worker, read by other threads; a torn read is off by one batch, and only on a display.

    settled  (sink, Kafka partition) -> offset_next that the sink has acknowledged
    """

    processed: int = 0
    rejected: int = 0
    skipped: int = 0
    settled: dict[tuple[str, int], int] = field(default_factory=dict)


class ProcessStatus:
    """Positions, rates, breakers and last errors of this process.

    partitions  as the consumers see them
    sinks       name -> the sink, whose `last_error`, `breaker_open` and `next_try_s` (if it has them) are told
    ready       whether the process has begun its work
    waiting     what else is waited for, in words; "" for nothing
    sections    more that is told, by name: values that JSON can hold
    """

    def __init__(
        self,
        name: str,
        progress: Progress,
        partitions: Callable[[], list[PartitionStatus]],
        sinks: Mapping[str, Any],
        ready: Callable[[], bool],
        waiting: Callable[[], str] = lambda: "",
        sections: Mapping[str, Callable[[], Any]] | None = None,
    ) -> None:
        self.name = name
        self._progress = progress
        self._partitions = partitions
        self._sinks = dict(sinks)
        self.ready = ready
        self._waiting = waiting
        self._sections = dict(sections or {})
        self._since: dict[str, float] = {}  # what is waited for -> since when, seconds since 1970
        self._started = time.time()
        self._counts: deque[tuple[float, int]] = deque(maxlen=RATE_OVER_S + 1)

    def publish(self, settings: Settings) -> None:
        """Tell Redis every second, best effort, and answer on HEALTH_PORT: where the settings name them."""
        if settings.redis:
            threading.Thread(target=self._tell, args=(settings,), name="status", daemon=True).start()
        if settings.health_port:
            from dataflows.health import serve  # a third of a second that most processes need not spend

            serve(self, settings.health_port)

    def values(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        now = time.time()
        partitions = self._partitions()
        waiting = self._waiting()
        return {
            "process": {
                "name": self.name,
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "started": self._started,
                "now": now,
                "ready": self.ready(),
                "waiting": waiting,
                "waiting_since": self._lasting("", waiting, now),
            },
            "events": {
                "processed": self._progress.processed,
                "rejected": self._progress.rejected,
                "skipped": self._progress.skipped,
                "per_second": self._per_second(),
            },
            "partitions": [_partition(each, now) for each in partitions],
            "sinks": {name: self._sink(name, sink, now) for name, sink in self._sinks.items()},
            **{name: tell() for name, tell in self._sections.items()},
        }

    def _tell(self, settings: Settings) -> None:
        board: StatusBoard | None = None
        while True:
            self._counts.append((time.time(), self._progress.processed))
            with suppress(redis.RedisError, RedisClusterException, OSError):  # who reads sees the process fall silent
                board = board or StatusBoard(
                    connect(settings.redis, settings.redis_cluster_nodes), settings.kafka_consumer_group
                )
                board.write(self.name, {key: json.dumps(value) for key, value in self.values().items()})
            time.sleep(EVERY_S)

    def _per_second(self) -> float:
        if len(self._counts) < 2:
            return 0.0
        (then, before), (latest, count) = self._counts[0], self._counts[-1]
        return round((count - before) / (latest - then), 1) if latest > then else 0.0

    def _lasting(self, name: str, words: str, now: float) -> float | None:
        """Since when there have been such words, whichever; None without."""
        if not words:
            self._since.pop(name, None)
            return None
        return self._since.setdefault(name, now)

    def _sink(self, name: str, sink: Any, now: float) -> dict[str, Any]:
        settled = dict(self._progress.settled)  # the worker goes on adding
        error = getattr(sink, "last_error", None) or ""
        return {
            "offset_next": {str(partition): offset for (of, partition), offset in settled.items() if of == name},
            "breaker": "open" if getattr(sink, "breaker_open", False) else "closed",
            "next_try_s": getattr(sink, "next_try_s", None),
            "error": error,
            "error_since": self._lasting(name, error, now),
            "errors": _metric("sink_errors_total", name),
            "latency_seconds_sum": _metric("processing_latency_seconds_sum", name),
            "latency_count": _metric("processing_latency_seconds_count", name),
        }


def _metric(sample: str, sink: str) -> float:
    return REGISTRY.get_sample_value(sample, {"sink": sink}) or 0.0


def _partition(status: PartitionStatus, now: float) -> dict[str, Any]:
    waits = max(0, status.end - status.offset_next)
    lag_s = max(0.0, now - status.newest_ms / 1000) if waits and status.newest_ms else 0.0
    return {
        "topic": status.topic,
        "partition": status.partition,
        "offset_next": status.offset_next,
        "end": status.end,
        "lag_events": waits,
        "lag_seconds": round(lag_s, 3),
        "newest_ms": status.newest_ms,
    }
