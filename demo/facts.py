"""What the live view shows, gathered once a second beside the loop that looks after the processes."""

import json
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import redis
from confluent_kafka import KafkaException

from demo.positions import Positions, captured, last_write
from sinks.redis_status import StatusBoard

RATE_OVER_S = 5


@dataclass(frozen=True)
class BoardRow:
    """One row of the rolling board; minutes: its events of each of the last ten."""

    rank: int
    title: str
    content_type: str
    score: float
    events: int
    unique_users: int
    minutes: list[int]


@dataclass(frozen=True)
class SinkFacts:
    """waiting: offsets before the end; rate, error, open: what it says of itself; silent: nothing said lately.

    rate  events per second of its process; open: its breaker is
    """

    waiting: int | None = None
    rate: float | None = None
    growing: bool = False
    open: bool = False
    error: str = ""
    silent: bool = True


@dataclass(frozen=True)
class Facts:
    """One look at everything. What could not be read is None (or empty) and named in `unread`, by system.

    moving         whether anything has been counted since the first look
    age_s          of the newest counted event, by min(event time, Kafka time)
    capture_bytes  written by PostgreSQL and not yet confirmed by the capture
    """

    at: float = 0.0
    board: list[BoardRow] = field(default_factory=list)
    events: int | None = None
    moving: bool = False
    rate: float | None = None
    age_s: float | None = None
    late: int = 0
    rejected: int = 0
    capture_bytes: int | None = None
    sinks: dict[str, SinkFacts] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)


class Observer:
    """A thread that looks once a second; `facts` is the last look."""

    def __init__(
        self,
        positions: Positions,
        status: StatusBoard,
        board: Callable[[float], list[BoardRow]],
        dsn: str,
        slot: str,
        sinks: tuple[str, ...],
        log: Path,
    ) -> None:
        self.facts = Facts()
        self._log = log
        self._events_before: int | None = None
        self._positions, self._status, self._board = positions, status, board
        self._dsn, self._slot, self._sinks = dsn, slot, sinks
        self._counted: deque[tuple[float, int]] = deque(maxlen=RATE_OVER_S + 1)
        self._waited: dict[str, deque[int]] = {sink: deque(maxlen=10) for sink in sinks}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Look no more; does not wait for a look that is under way."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.facts = self._look(time.time())
            except Exception:  # the view must not end because one look failed in a new way
                with self._log.open("a") as log:
                    traceback.print_exc(file=log)
            self._stop.wait(1.0)

    def _look(self, now: float) -> Facts:
        unread: dict[str, str] = {}
        totals: dict[str, int] = {}
        said: dict[str, dict[str, str]] = {}
        waiting: dict[str, int] = {}
        board: list[BoardRow] = []
        capture_bytes = None
        try:
            totals = self._positions.totals()
            said = self._status.read()
            board = self._board(now)
        except redis.RedisError as error:
            unread["Redis"] = str(error)
        try:
            waiting = self._positions.waiting()
        except KafkaException as error:
            unread["Kafka"] = str(error.args[0])
        except (redis.RedisError, TimeoutError) as error:
            unread.setdefault("Kafka", str(error))
        try:
            confirmed = captured(self._dsn, self._slot)
            capture_bytes = None if confirmed is None else max(0, last_write(self._dsn) - confirmed)
        except psycopg.Error as error:
            unread["PostgreSQL"] = str(error)
        return Facts(
            at=now,
            board=board,
            events=totals.get("events"),
            moving=self._moved(totals.get("events")),
            rate=self._rate(now, totals.get("events")),
            age_s=max(0.0, now - totals["watermark_us"] / 1e6) if totals.get("watermark_us") else None,
            late=totals.get("late", 0),
            rejected=totals.get("rejected", 0),
            capture_bytes=capture_bytes,
            sinks={sink: self._sink(sink, waiting.get(sink), said) for sink in self._sinks},
            unread=unread,
        )

    def _moved(self, events: int | None) -> bool:
        if self._events_before is None:
            self._events_before = events or 0
        return events is not None and events > self._events_before

    def _rate(self, now: float, events: int | None) -> float | None:
        if events is None:
            return None
        self._counted.append((now, events))
        (then, before) = self._counted[0]
        return (events - before) / (now - then) if now > then else None

    def _sink(self, sink: str, waiting: int | None, said: dict[str, dict[str, str]]) -> SinkFacts:
        seen = self._waited[sink]
        if waiting is not None:
            seen.append(waiting)
        growing = len(seen) == seen.maxlen and seen[-1] > max(seen[0], 1000)
        for values in said.values():
            own = json.loads(values.get("sinks", "{}")).get(sink)
            if own is not None:
                return SinkFacts(
                    waiting,
                    json.loads(values.get("events", "{}")).get("per_second"),
                    growing,
                    own.get("breaker", "closed") != "closed",
                    own.get("error", ""),
                    silent=False,
                )
        return SinkFacts(waiting, growing=growing)
