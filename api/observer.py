"""Looks at Redis and Kafka once a second and remembers: what is known now, as facts. Reads only."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import redis
import structlog
from redis.exceptions import RedisClusterException

from api.kafka_positions import KafkaAway, KafkaLook
from api.partition_positions import PartitionPosition
from api.phases import IDLE_S, Facts, Phase, phase_of
from api.processes import SPEAKS_S, Heard, Processes
from api.progress import CaptureLag, Progress, SinkProgress
from api.queries import TotalsReader
from api.stages import BOARD, CAPTURE, LABELS, UNMOVED_S, Breaker, Stage, State, late_state, stage_json, state_of
from api.troubles import POSTGRES, postgres_away, redis_away, trouble_of
from engagement.totals import NEVER
from sinks.redis_status import StatusBoard

REDIS_AWAY_S = 3.0
KAFKA_AWAY_S = 10.0
TIMES_MAX = 8  # records whose time is read in one look
RETENTION_EVERY_S = 60.0
RECORDS = ("events", "rejected", "skipped")
REDIS_FAILURES = (redis.RedisError, RedisClusterException, OSError)

log = structlog.get_logger()


class Kafka(Protocol):
    """See api.kafka_positions.KafkaPositions."""

    def look(self) -> KafkaLook: ...
    def retention_s(self) -> float | None: ...
    def time_of(self, partition: int, offset: int) -> float | None: ...


class Observer:
    """What the threads have seen. Every method takes the time as an argument, in seconds since 1970.

    kafka  None: what the processes say of partitions and positions is taken instead
    sinks  those that must be there; empty: those that have a position or a process
    """

    def __init__(
        self,
        totals: TotalsReader,
        status: StatusBoard,
        kafka: Kafka | None = None,
        sinks: Sequence[str] = (),
        *,
        began: float | None = None,
    ) -> None:
        began = time.time() if began is None else began
        self._totals, self._status, self._kafka, self._expected = totals, status, kafka, tuple(sinks)
        self._lock = threading.Lock()
        self._processes = Processes(began)
        self._progress = Progress()
        self._capture_lag = CaptureLag()
        self._positions: list[PartitionPosition] = []
        self._redis_at: float | None = None  # when it answered last
        self._kafka_at: float | None = None
        self._began = began
        self._redis_words = self._kafka_words = ""
        self._retention: tuple[float, float | None] | None = None  # asked at, seconds
        self._kafka_positions: dict[str, dict[int, int]] = {}
        self._density: tuple[int, int] | None = None  # records, offsets behind them when last seen
        self._records_per_offset = 1.0

    # Looking: each from a thread of its own, since either may be away

    def look_at_redis(self, now: float) -> bool:
        """Positions of the totals and what the processes say. Whether Redis answered."""
        try:
            positions, status = self._totals.positions(), self._status.read()
        except REDIS_FAILURES as failure:
            self._redis_words = str(failure)
            return False
        with self._lock:
            self._redis_at, self._redis_words = now, ""
            self._positions = positions
            self._processes.read(status, now)
            last = self._last_capture()
            lag_s = last.values.get(CAPTURE, {}).get("lag_seconds") if last else None
            if last and lag_s is not None and self._processes.silent_s([last], now) < SPEAKS_S:
                self._capture_lag.saw(now, lag_s)
            self._weigh(positions)
            if self._kafka is None:
                self._progress.saw(now, *self._told())
        return True

    def look_at_kafka(self, now: float) -> bool:
        """Ends and positions, and the times of the oldest records that wait. Whether Kafka answered."""
        assert self._kafka is not None
        try:
            look = self._kafka.look()
            if self._retention is None or now - self._retention[0] > RETENTION_EVERY_S:
                self._retention = now, self._kafka.retention_s()
        except KafkaAway as away:
            self._kafka_words = str(away)
            return False
        with self._lock:
            self._kafka_at, self._kafka_words = now, ""
            self._kafka_positions = look.positions
            self._progress.saw(now, look.ends, self._all_positions(look.positions))
            unknown = self._progress.unknown()[:TIMES_MAX]
        for partition, offset in unknown:
            at = self._kafka.time_of(partition, offset)
            if at is not None:
                with self._lock:
                    self._progress.read(partition, offset, at)
        return True

    def run(self, stop: threading.Event, every_s: float = 1.0) -> list[threading.Thread]:
        """Look until `stop`, on threads."""
        looks: list[Callable[[float], bool]] = [self.look_at_redis]
        if self._kafka is not None:
            looks.append(self.look_at_kafka)
        return [start_thread(look, stop, every_s) for look in looks]

    # What is known

    def facts(self, now: float) -> Facts:
        with self._lock:
            return self._facts(now)

    def phase(self, now: float) -> Phase:
        return phase_of(self.facts(now))

    def pipeline(self, now: float) -> dict[str, Any]:
        """The event `pipeline` of the stream; `/health` holds the same."""
        with self._lock:
            facts = self._facts(now)
            rate_in = self._progress.rate_in()
        return {
            "kafka": {
                "partitions": facts.partitions,
                "rate_in": self._events(rate_in),
                "stalled": phase_of(facts).phase == "stalled",
            },
            "stages": [stage_json(stage) for stage in facts.stages],
        }

    def rates(self) -> list[int | None]:
        """Events that arrived in Kafka in each of the last 60 seconds, oldest first; None: not seen."""
        with self._lock:
            return [self._events(count) for count in self._progress.arrivals()]

    def processes(self, now: float) -> dict[str, Mapping[str, Any]]:
        """What the living processes say."""
        with self._lock:
            return self._processes.living(now)

    def positions(self) -> list[PartitionPosition]:
        """Where the totals stood at the last look."""
        return self._positions

    def services(self, now: float) -> dict[str, str]:
        """System -> ok, down or unknown."""
        with self._lock:
            facts = self._facts(now)
            waiting = "; ".join(
                str(each.get("process", {}).get("waiting")) for each in self._processes.living(now).values()
            )
        by_name = {stage.name: stage for stage in facts.stages}
        found = {
            "kafka": _service(facts.kafka_away_since, known=bool(facts.partitions)),
            "redis": _service(facts.redis_away_since, known=self._redis_at is not None),
        }
        capture = by_name.get(CAPTURE)
        postgres = "ok" if capture and capture.state not in ("stopped", "starting") else "unknown"
        found["postgres"] = "down" if POSTGRES in waiting else postgres
        for name in ("bigquery", "partner"):
            if stage := by_name.get(name):
                silent = stage.silent_s >= UNMOVED_S
                found[name] = "unknown" if silent else "down" if stage.error or stage.breaker.state == "open" else "ok"
        return found

    def _facts(self, now: float) -> Facts:
        newest_ms = max((position.newest_ms for position in self._positions), default=-1)
        watermark_us = max((position.watermark_us for position in self._positions), default=NEVER)
        newest_record = newest_ms / 1000 if newest_ms >= 0 else None
        quiet = newest_record is not None and now - newest_record >= IDLE_S
        stages = self._stages(now, quiet)
        ends = [each.end for stage in stages for each in stage.partitions]
        waits = [stage.lag_s for stage in stages if stage.lag_events and stage.lag_s is not None]
        kept_s = self._retention[1] if self._retention else None
        return Facts(
            now=now,
            stages=stages,
            partitions=max((len(stage.partitions) for stage in stages), default=0),
            redis_away_since=self.redis_away_since(now),
            kafka_away_since=(
                _away_since(self._kafka_at or self._began, now, KAFKA_AWAY_S) if self._kafka is not None else None
            ),
            newest_event=None if watermark_us == NEVER else watermark_us / 1e6,
            newest_record=newest_record,
            ever=not ends or any(ends) or newest_ms >= 0,
            forgets_in_s=kept_s - max(waits) if waits and kept_s is not None else None,
        )

    def _stages(self, now: float, quiet: bool) -> list[Stage]:
        """Nothing before the first look at either."""
        if self._redis_at is None or (self._kafka is not None and self._kafka_at is None):
            return []
        stages = [*self._capture(now, quiet), *(self._sink(sink, now, quiet) for sink in self._sinks())]
        since = self.redis_away_since(now)
        if since is None:
            return stages
        # The process behind the board speaks through Redis: what it said last is no longer true.
        away = redis_away(since, self._redis_words)
        return [replace(stage, state="stopped", error=away) if stage.name == BOARD else stage for stage in stages]

    def redis_away_since(self, now: float) -> float | None:
        """Since when Redis has not answered (seconds since 1970); None: it answers."""
        return _away_since(self._redis_at or self._began, now, REDIS_AWAY_S)

    def _sinks(self) -> list[str]:
        found = set(self._expected) or {BOARD} | self._kafka_positions.keys() | self._processes.sinks()
        return [sink for sink in LABELS if sink in found]

    def _capture(self, now: float, quiet: bool) -> list[Stage]:
        """One stage where our capture was ever heard: another one (Debezium) does not speak to us."""
        last = self._last_capture()
        if last is None:
            return []
        silent_s = self._processes.silent_s([last], now)
        rate = last.values.get("events", {}).get("per_second")
        silent = silent_s >= UNMOVED_S
        ready = last.values.get("process", {}).get("ready", True)
        # What its slot keeps is a trouble, and no reason to call it down.
        trouble = trouble_of(CAPTURE, [last], silent_s, now)
        away = postgres_away(self._processes.living(now).values(), now)
        lag = self._capture_lag
        late = late_state(lag.lag_s, lag.trend)
        state: State = "stopped" if silent or away else "starting" if not ready else late or ("idle" if quiet else "ok")
        return [
            Stage(
                CAPTURE,
                state,
                lag_s=None if silent else lag.lag_s,
                lag_events=None,
                rate=None if silent else rate,
                trend=lag.trend if late else None,
                done_in_s=lag.done_in_s if late else None,
                breaker=Breaker("unknown" if silent else "closed"),
                error=trouble or away,
                silent_s=silent_s,
            )
        ]

    def _last_capture(self) -> Heard | None:
        """The one that spoke last."""
        return max(self._processes.captures(), key=lambda each: each.at, default=None)

    def _sink(self, sink: str, now: float, quiet: bool) -> Stage:
        heard = self._processes.with_sink(sink)
        silent_s = self._processes.silent_s(heard, now)
        progress: SinkProgress = self._progress.of(sink, now)
        said = [each.sinks[sink] for each in heard if now - each.at < 3 * SPEAKS_S]
        tries = [each["next_try_s"] for each in said if each.get("next_try_s") is not None]
        running = bool(heard) and silent_s < SPEAKS_S
        failing = any(each.get("error") for each in said)
        opened = any(each.get("breaker") == "open" for each in said)
        forgets_at = None
        if self._retention and self._retention[1] is not None and progress.lag_s:
            forgets_at = now - progress.lag_s + self._retention[1]
        stage = Stage(
            sink,
            "unknown",
            lag_s=progress.lag_s,
            lag_events=self._events(progress.waiting),
            rate=self._events(progress.rate),
            trend=progress.trend,
            done_in_s=progress.done_in_s,
            breaker=Breaker("open" if opened else "closed" if said else "unknown", min(tries, default=None)),
            error=trouble_of(sink, heard, silent_s, now, forgets_at),
            silent_s=silent_s,
            partitions=progress.partitions,
        )
        return replace(stage, state=state_of(stage, running=running, quiet=quiet, failing=failing))

    def _told(self) -> tuple[dict[int, int], dict[str, dict[int, int]]]:
        """Ends and positions as the processes say them."""
        ends: dict[int, int] = {}
        positions: dict[str, dict[int, int]] = {}
        for said in self._processes.living(self._redis_at or 0.0).values():
            for each in said.get("partitions", []):
                ends[each["partition"]] = max(ends.get(each["partition"], 0), each.get("end", 0))
            for sink, of in said.get("sinks", {}).items():
                known = {int(partition): offset for partition, offset in of.get("offset_next", {}).items()}
                positions.setdefault(sink, {}).update(known)
        return ends, self._all_positions(positions)

    def _all_positions(self, positions: Mapping[str, dict[int, int]]) -> dict[str, dict[int, int]]:
        of_board = {each.partition: each.offset_next for each in self._positions if each.offset_next is not None}
        return {**positions, BOARD: of_board}

    def _weigh(self, positions: Sequence[PartitionPosition]) -> None:
        """How many events an offset stands for: markers of transactions take offsets too."""
        records = sum(sum(each.counters[name] for name in RECORDS) for each in positions)
        offsets = sum(each.offset_next or 0 for each in positions)
        if self._density is not None and offsets - self._density[1] >= 100:
            self._records_per_offset = min(1.0, max(0.0, (records - self._density[0]) / (offsets - self._density[1])))
        if self._density is None or offsets - self._density[1] >= 10_000 or offsets < self._density[1]:
            self._density = records, offsets

    def _events(self, offsets: float | None) -> int | None:
        return None if offsets is None else round(offsets * self._records_per_offset)


def start_thread(look: Callable[[float], object], stop: threading.Event, every_s: float) -> threading.Thread:
    """Call `look(now)` every so often until `stop`; what it raises is logged, since a thread that ends is not seen."""

    def run() -> None:
        while not stop.is_set():
            begun = time.monotonic()
            try:
                look(time.time())
            except Exception:
                log.exception("look_failed", look=look.__qualname__)
            stop.wait(max(0.05, every_s - (time.monotonic() - begun)))

    thread = threading.Thread(target=run, name=look.__qualname__, daemon=True)
    thread.start()
    return thread


def _service(away_since: float | None, *, known: bool) -> str:
    return "down" if away_since is not None else "ok" if known else "unknown"


def _away_since(answered: float, now: float, after_s: float) -> float | None:
    return answered if now - answered > after_s else None
