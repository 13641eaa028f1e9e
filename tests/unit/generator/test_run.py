"""What each mode writes, and when it ends, against a database that is a list."""

from collections.abc import Callable, Iterable
from typing import Any

from generator.database import Stopped
from generator.rows import Record, Stream
from generator.run import BATCH_SPAN_S, ROWS_HISTORICAL, Plan, batch, continuous, historical, write

NOW_US = 1_760_000_000_000_000  # 2025-10-09T08:53:20Z
CONTENTS: list[tuple[str, int | None]] = [("00000000-0000-4000-8000-000000000001", 600)]


class Written:
    """Takes every batch; goes away after `batches_max`, and then only ends when asked to stop."""

    def __init__(self, batches_max: int | None = None) -> None:
        self.batches: list[list[Record]] = []
        self._batches_max = batches_max

    def write(self, records: Callable[[], Iterable[Record]]) -> None:
        if len(self.batches) == self._batches_max:
            raise Stopped
        self.batches.append(list(records()))

    @property
    def rows(self) -> list[Record]:
        return [row for rows in self.batches for row in rows]


def run(plan: Plan, database: Any, stopping: Callable[[], bool] = lambda: False, **others: Any) -> Any:
    stream = Stream(CONTENTS, plan.seconds_of, seed=1, late=plan.late, now_s=plan.now_s)
    return write(plan, stream, database, stopping=stopping, **others)


def test_a_batch_is_one_transaction_of_the_last_minute() -> None:
    database = Written()
    told: list[int] = []
    result = run(batch(NOW_US, None, 12_000), database, progress=told.append)
    assert result.rows == 12_000
    assert [len(rows) for rows in database.batches] == [12_000]
    assert told == [5_000, 10_000, 12_000]
    times = [row[3] for row in database.rows]
    assert max(times) < "2025-10-09T08:53:20"
    assert sum(time > "2025-10-09T08:52:20" for time in times) > 11_000
    assert BATCH_SPAN_S == 60


def test_history_is_whole_days_before_today_in_order() -> None:
    database = Written()
    result = run(historical(NOW_US, 2, None, 7_000, None), database)
    assert result.rows == 7_000
    assert [len(rows) for rows in database.batches] == [5_000, 2_000]
    times = [row[3] for row in database.rows]
    assert times == sorted(times)
    assert times[0][:11] == "2025-10-07T"
    assert times[-1][:11] == "2025-10-08T"
    assert historical(NOW_US, 2, None, None, None).rows_max == ROWS_HISTORICAL


def test_continuous_keeps_its_rate_and_dates_rows_now() -> None:
    database = Written()
    result = run(continuous(NOW_US, 1_000, 300, 50), database)
    assert result.rows == 300
    assert 0.25 < result.seconds < 10  # never faster; a busy machine may be slower
    assert max(len(rows) for rows in database.batches) <= 50
    assert max(row[3] for row in database.rows) < "2025-10-09T08:53:20.3"


def test_it_ends_after_its_seconds() -> None:
    result = run(continuous(NOW_US, 1_000, None, None), Written(), seconds_max=0.2)
    assert 0.2 <= result.seconds < 10
    assert result.rows > 0


def test_a_signal_ends_it_after_the_rows_under_way() -> None:
    database = Written()
    result = run(historical(NOW_US, 2, None, 50_000, None), database, stopping=lambda: len(database.batches) == 2)
    assert result.rows == len(database.rows) == 10_000


def test_stopping_while_postgresql_is_away_keeps_the_count() -> None:
    database = Written(batches_max=1)
    assert run(historical(NOW_US, 2, None, 50_000, None), database).rows == len(database.rows) == 5_000
