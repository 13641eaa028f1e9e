"""What the pipeline's stages are doing, as values: capture, Kafka, and one stage per sink. No clock, no client."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

State = Literal["ok", "idle", "starting", "catching_up", "behind", "stopped", "unknown"]
Trend = Literal["growing", "shrinking", "steady"]

LATE_S = 10.0  # more behind than this is not on time
UNMOVED_S = 27.0  # silent, or unmoved while events wait: shown within 30 s, looks are a second apart
CAPTURE, BOARD = "capture", "redis"
LABELS = {
    "capture": "Capture",
    "redis": "Redis",
    "bigquery": "BigQuery",
    "partner": "Partner",
    "dead_letters": "Dead letters",
}
WHAT = {
    "capture": "PostgreSQL to Kafka",
    "redis": "boards on this page",
    "bigquery": "every event, once",
    "partner": "HTTP POST",
    "dead_letters": "rejected events",
}


@dataclass(frozen=True, slots=True)
class Breaker:
    """state: closed, open, unknown (its process is silent); next_try_s: seconds, None: not known."""

    state: str = "closed"
    next_try_s: float | None = None


@dataclass(frozen=True, slots=True)
class Trouble:
    """since: seconds since 1970; words: what the destination said; todo: what a person should do."""

    since: float
    words: str
    todo: str


@dataclass(frozen=True, slots=True)
class PartitionProgress:
    """One Kafka partition at one sink.

    position  the first offset the sink still needs; None: it has none yet
    waiting   offsets between position and end; None without a position
    lag_s     age of the oldest record that waits; 0 when none does; None: unknown
    unmoved_s seconds since the position moved or nothing waited
    """

    partition: int
    position: int | None
    end: int
    waiting: int | None
    lag_s: float | None
    unmoved_s: float


@dataclass(frozen=True, slots=True)
class Stage:
    """One step on the way of an event.

    lag_s      age of the oldest event that waits for it, seconds; None: unknown
    lag_events events that wait for it; None: unknown
    rate       events per second over the last 30 s; None: unknown
    trend      of what waits, over the last 30 s; None: not seen for long enough
    done_in_s  seconds until nothing waits, at the rates of the last 30 s; None where that is never
    silent_s   since a process of this stage spoke
    """

    name: str
    state: State
    lag_s: float | None = None
    lag_events: int | None = None
    rate: float | None = None
    trend: Trend | None = None
    done_in_s: float | None = None
    breaker: Breaker = Breaker()
    error: Trouble | None = None
    silent_s: float = 0.0
    partitions: Sequence[PartitionProgress] = ()

    @property
    def label(self) -> str:
        return LABELS.get(self.name, self.name)

    @property
    def on_time(self) -> bool:
        return self.state in ("ok", "idle")

    @property
    def stalled(self) -> list[PartitionProgress]:
        """Its partitions in which events wait and nothing has moved for too long."""
        return [each for each in self.partitions if each.waiting and each.unmoved_s >= UNMOVED_S]


def state_of(stage: Stage, *, running: bool, quiet: bool, failing: bool = False) -> State:
    """The state of a sink's stage from its numbers.

    running  a process of it has spoken lately; quiet: no event has come for a while
    failing  its destination refuses or does not answer: then it is down once nothing moves, before its breaker opens
    """
    if stage.breaker.state == "open" or stage.silent_s >= UNMOVED_S:
        return "stopped"
    if _has_no_position(stage, running):
        return "starting"
    if failing and stage.stalled:
        return "stopped"
    if late := late_state(stage.lag_s, stage.trend):
        return late
    if stage.lag_s is None:
        return "unknown"
    return "idle" if quiet and not stage.lag_events else "ok"


def late_state(lag_s: float | None, trend: Trend | None) -> State | None:
    """None: on time, as far as is known."""
    if (lag_s or 0.0) <= LATE_S:
        return None
    return "behind" if trend in ("growing", "steady") else "catching_up"


def _has_no_position(stage: Stage, running: bool) -> bool:
    """Of an empty partition a running process may have none: there is nothing to stand behind."""
    return any(each.position is None and (each.end or not running) for each in stage.partitions)


def stage_json(stage: Stage) -> dict[str, Any]:
    """As the page reads it."""
    return {
        "name": stage.name,
        "label": stage.label,
        "state": stage.state,
        "lag_s": None if stage.lag_s is None else round(stage.lag_s, 1),
        "lag_events": stage.lag_events,
        "rate": None if stage.rate is None else round(stage.rate),
        "trend": stage.trend,
        "done_in_s": None if stage.done_in_s is None else round(stage.done_in_s),
        "breaker": {"state": stage.breaker.state, "next_try_s": stage.breaker.next_try_s},
        "error": None
        if stage.error is None
        else {"since": instant(stage.error.since), "words": stage.error.words, "todo": stage.error.todo},
    }


def instant(at: float | None) -> str | None:
    """ISO 8601 in UTC, milliseconds."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
