"""What one call of the generator writes (Plan), and the loop that writes it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from generator.database import Database, Stopped
from generator.rhythm import DAY_S, daily, even
from generator.rows import Record, Rows, Stream, records
from generator.schedule import Schedule
from generator.sessions import SecondsOfRow

ROWS_PER_COMMIT = 5_000
ROWS_CONTINUOUS_PER_S, ROWS_BATCH, ROWS_HISTORICAL = 100.0, 1_000, 100_000
BATCH_SPAN_S = 60.0  # the events of one batch happened within the last minute
NAP_S_MAX = 0.2  # so soon a signal is noticed


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write.

    start_us    microseconds since 1970 at which the stream starts     seconds_of  when each row happens after that
    rows_max    rows in all; None: until stopped                       late        whether rows arrive after their time
    pace        rows per second on the wall clock; None: as fast as PostgreSQL takes them
    per_commit  most rows of one transaction                           now_s       the present, seconds after start_us
    """

    start_us: int
    seconds_of: SecondsOfRow
    rows_max: int | None
    late: bool
    pace: float | None
    per_commit: int
    now_s: float


def continuous(now_us: int, rate: float | None, rows: int | None, per_commit: int | None) -> Plan:
    """Rows as they happen, `rate` a second, without end or `rows` in all."""
    rate = rate or ROWS_CONTINUOUS_PER_S
    return Plan(now_us, even(rate), rows, True, rate, per_commit or ROWS_PER_COMMIT, 0.0)


def batch(now_us: int, rate: float | None, rows: int | None) -> Plan:
    """`rows` rows in one transaction; their events happened up to now, over a minute or at `rate`."""
    rows = rows or ROWS_BATCH
    span_s = rows / rate if rate else BATCH_SPAN_S
    return Plan(now_us - round(span_s * 1e6), even(rows / span_s), rows, True, None, rows, span_s)


def historical(now_us: int, days: int, rate: float | None, rows: int | None, per_commit: int | None) -> Plan:
    """`rows` rows over the last `days` whole days (UTC), in event-time order, with the rhythm of the day."""
    rows = rows or ROWS_HISTORICAL
    day_us = round(DAY_S * 1e6)
    start_us = (now_us // day_us - days) * day_us
    return Plan(
        start_us, daily(rows, days), rows, False, rate, per_commit or ROWS_PER_COMMIT, (now_us - start_us) / 1e6
    )


@dataclass(slots=True)
class Result:
    """Rows that PostgreSQL has, in how many seconds, and the seconds lost to waiting for it."""

    rows: int = 0
    seconds: float = 0.0
    stalled_s: float = 0.0


def write(
    plan: Plan,
    stream: Stream,
    database: Database,
    *,
    stopping: Callable[[], bool],
    seconds_max: float | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> Result:
    """Write the plan's rows until they are all there, `seconds_max` have passed, or `stopping`.

    progress: called with the rows written so far."""
    stream.take(0)  # the first block costs a moment: not on the schedule's time
    started = time.monotonic()
    schedule = Schedule(plan.pace, started) if plan.pace else None
    result = Result()
    while not stopping():
        now = time.monotonic()
        if seconds_max is not None and now - started >= seconds_max:
            break
        wanted = plan.per_commit if plan.rows_max is None else min(plan.per_commit, plan.rows_max - result.rows)
        if wanted <= 0:
            break
        rows = schedule.due(now, wanted) if schedule else wanted
        if rows == 0 and schedule:
            time.sleep(min(schedule.wait_s(now), NAP_S_MAX))
            continue
        start_us = plan.start_us
        if schedule:
            result.stalled_s = schedule.stalled_s
            # What happens now is dated now, also after PostgreSQL was away; history keeps its dates.
            start_us += round(schedule.stalled_s * 1e6) if plan.late else 0
        try:
            database.write(_batch(stream.take(rows), stream, start_us, result.rows, progress))
        except Stopped:
            break
        result.rows += rows
        progress(result.rows)
    result.seconds = time.monotonic() - started
    return result


def _batch(
    rows: Rows, stream: Stream, start_us: int, before: int, progress: Callable[[int], None]
) -> Callable[[], Iterator[Record]]:
    """The records of one transaction, as often as they are asked for; long ones report on the way."""

    def yielded() -> Iterator[Record]:
        for first in range(0, len(rows), ROWS_PER_COMMIT):
            if first:
                progress(before + first)
            yield from records(rows[first : first + ROWS_PER_COMMIT], stream, start_us)

    return yielded
