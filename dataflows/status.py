"""What this process has done so far, and the thread that tells Redis every second: best effort, never in the way."""

import json
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import redis

from sinks.redis_status import StatusBoard
from sources.kafka import PartitionStatus

EVERY_S = 1.0
RATE_OVER_S = 10


@dataclass
class Progress:
    """Counted by the worker, read by the status thread; a torn read is off by one batch, and only on a display.

    settled  (sink, Kafka partition) -> offset_next that the sink has acknowledged
    """

    processed: int = 0
    rejected: int = 0
    skipped: int = 0
    late: int = 0
    settled: dict[tuple[str, int], int] = field(default_factory=dict)


def report(
    board: Callable[[], StatusBoard],
    name: str,
    progress: Progress,
    partitions: Callable[[], list[PartitionStatus]],
    sinks: dict[str, Any],
) -> None:
    """Start the thread.

    board  connects; may raise redis.RedisError
    sinks  name -> the sink, whose `last_error` and `breaker_open` (if it has them) are told"""
    threading.Thread(target=_run, args=(board, name, progress, partitions, sinks), name="status", daemon=True).start()


def _run(
    board: Callable[[], StatusBoard],
    name: str,
    progress: Progress,
    partitions: Callable[[], list[PartitionStatus]],
    sinks: dict[str, Any],
) -> None:
    started = time.time()
    seen: deque[tuple[float, int]] = deque(maxlen=RATE_OVER_S + 1)
    connected: StatusBoard | None = None
    while True:
        now = time.time()
        seen.append((now, progress.processed))
        (then, before), (latest, count) = seen[0], seen[-1]
        values = {
            "process": {"name": name, "pid": os.getpid(), "host": socket.gethostname(), "started": started, "now": now},
            "events": {
                "processed": count,
                "rejected": progress.rejected,
                "skipped": progress.skipped,
                "late": progress.late,
                "per_second": round((count - before) / (latest - then), 1) if latest > then else 0.0,
            },
            "partitions": [_partition(each, now) for each in partitions()],
            "sinks": {sink: _sink(sink, part, progress) for sink, part in sinks.items()},
        }
        with suppress(redis.RedisError, OSError):  # best effort: who reads sees the process fall silent
            connected = connected or board()
            connected.write(name, {key: json.dumps(value) for key, value in values.items()})
        time.sleep(EVERY_S)


def _partition(status: PartitionStatus, now: float) -> dict[str, Any]:
    waits = max(0, status.end - status.offset_next)
    lag_s = max(0.0, now - status.newest_ms / 1000) if waits and status.newest_ms else 0.0
    return {
        "partition": status.partition,
        "offset_next": status.offset_next,
        "end": status.end,
        "lag_events": waits,
        "lag_seconds": round(lag_s, 3),
        "newest_ms": status.newest_ms,
    }


def _sink(name: str, sink: Any, progress: Progress) -> dict[str, Any]:
    settled = dict(progress.settled)  # the worker goes on adding
    return {
        "offset_next": {str(partition): offset for (of, partition), offset in settled.items() if of == name},
        "breaker": "open" if getattr(sink, "breaker_open", False) else "closed",
        "error": getattr(sink, "last_error", None) or "",
    }
