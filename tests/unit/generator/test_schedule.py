"""The rate holds against any clock, and a stall is not followed by a flood."""

from itertools import pairwise

import pytest

from generator.schedule import BACKLOG_S_MAX, TICK_S, Schedule


def simulated(rate: float, seconds: float, write_s: float = 0.0, rows_max: int = 5_000) -> list[tuple[float, int]]:
    """(time, rows) of each batch; a write takes `write_s`."""
    schedule, now, batches = Schedule(rate, 1_000.0), 1_000.0, []
    while now < 1_000.0 + seconds:
        rows = schedule.due(now, rows_max)
        if rows:
            batches.append((now - 1_000.0, rows))
            now += write_s
        now += schedule.wait_s(now)
    return batches


@pytest.mark.parametrize("rate", [0.5, 7, 100, 2_000, 20_000])
@pytest.mark.parametrize("write_s", [0.0, 0.02])
def test_the_rate_holds(rate: float, write_s: float) -> None:
    batches = simulated(rate, 20, write_s)
    assert sum(rows for _, rows in batches) == pytest.approx(rate * 20, rel=0.05, abs=1)


def test_rows_are_written_together_every_tick() -> None:
    batches = simulated(20_000, 2)
    gaps = [after - before for (before, _), (after, _) in pairwise(batches)]
    assert max(gaps) <= 2 * TICK_S
    assert min(gaps) >= TICK_S * 0.99
    assert max(rows for _, rows in batches) <= 20_000 * 2 * TICK_S


def test_rare_rows_are_not_polled_for() -> None:
    schedule = Schedule(0.5, 0.0)
    assert schedule.due(1.0, 10) == 0
    assert schedule.wait_s(1.0) == pytest.approx(1.0)
    assert schedule.due(2.0, 10) == 1


def test_no_batch_is_larger_than_asked_and_the_rest_follows_at_once() -> None:
    schedule = Schedule(1_000, 0.0)
    assert schedule.due(1.0, 300) == 300
    assert schedule.wait_s(1.0) == 0
    assert schedule.due(1.0, 5_000) == 700
    assert schedule.due(1.0, 5_000) == 0


def test_after_a_stall_the_schedule_moves_on() -> None:
    schedule = Schedule(100, 0.0)
    assert schedule.due(1.0, 5_000) == 100
    assert schedule.due(61.0, 5_000) == pytest.approx(100 * BACKLOG_S_MAX, abs=2)
    assert schedule.stalled_s == pytest.approx(58, abs=0.1)
    assert schedule.due(62.0, 5_000) == pytest.approx(100, abs=1)


def test_a_short_stall_is_made_up_for() -> None:
    schedule = Schedule(100, 0.0)
    assert schedule.due(1.0, 5_000) == 100
    assert schedule.due(2.9, 5_000) == 190
    assert schedule.stalled_s == 0
