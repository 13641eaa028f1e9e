"""Lag, rates and trends from positions that are seen once a second."""

import pytest

from api.progress import CaptureLag, Progress, Timeline

T = 1_800_000_000.0


def seen(seconds: int, rate_in: float, rate: float, backlog: int = 0, partitions: int = 2) -> Progress:
    """Looks once a second: so many offsets a second arrive in and leave each partition."""
    progress = Progress()
    for second in range(seconds + 1):
        ends = {each: 100_000 + round(rate_in * second) for each in range(partitions)}
        positions = {each: min(end, 100_000 - backlog + round(rate * second)) for each, end in ends.items()}
        progress.saw(T + second, ends, {"partner": positions})
    return progress


def test_a_record_arrived_when_the_end_was_first_seen_behind_it() -> None:
    timeline = Timeline()
    for second in range(5):
        timeline.saw_end(100 + 10 * second, T + second)
    assert [timeline.arrived(offset) for offset in (100, 109, 110, 139)] == [T + 1, T + 1, T + 2, T + 4]
    assert timeline.arrived(99) is None
    timeline.read(99, T - 500)
    assert timeline.arrived(99) == T - 500
    assert timeline.arrived(98) is None


def test_who_keeps_up_is_on_time() -> None:
    of = seen(30, 50, 50).of("partner", T + 30)
    assert (of.waiting, of.lag_s, of.rate, of.trend, of.done_in_s) == (0, 0.0, 100.0, "steady", None)


def test_the_age_of_the_oldest_record_that_waits_is_the_lag() -> None:
    progress = seen(30, 50, 0)
    of = progress.of("partner", T + 30)
    assert of.waiting == 2 * 50 * 30
    assert of.lag_s == pytest.approx(29, abs=1)
    assert of.trend == "growing"
    assert [each.unmoved_s for each in of.partitions] == [30.0, 30.0]


def test_what_waited_before_the_first_look_has_no_age_until_its_record_is_read() -> None:
    progress = seen(3, 0, 0, backlog=500)
    assert progress.unknown() == [(0, 99_500), (1, 99_500)]
    assert progress.of("partner", T + 3).lag_s is None
    for partition, offset in progress.unknown():
        progress.read(partition, offset, T - 60)
    assert progress.unknown() == []
    assert progress.of("partner", T + 3).lag_s == 63.0


def test_who_catches_up_says_when_he_will_be_done() -> None:
    of = seen(30, 100, 300, backlog=60_000).of("partner", T + 30)
    assert of.trend == "shrinking"
    assert of.done_in_s == pytest.approx(of.waiting / (600 - 200))  # type: ignore[operator]


@pytest.mark.parametrize("rate", [100, 60])
def test_who_does_not_catch_up_says_nothing(rate: int) -> None:
    assert seen(30, 100, rate, backlog=60_000).of("partner", T + 30).done_in_s is None


def test_a_trend_needs_five_seconds() -> None:
    assert seen(4, 0, 100, backlog=60_000).of("partner", T + 4).trend is None
    assert seen(5, 0, 100, backlog=60_000).of("partner", T + 5).trend == "shrinking"


def test_a_partition_without_position_is_unknown_unless_it_is_empty() -> None:
    progress = Progress()
    progress.saw(T, {0: 10, 1: 0}, {"redis": {}})
    of = progress.of("redis", T)
    assert (of.waiting, of.lag_s) == (None, None)
    assert [(each.position, each.waiting) for each in of.partitions] == [(None, None), (None, 0)]
    progress.saw(T + 1, {0: 10, 1: 0}, {"redis": {0: 10}})
    assert (progress.of("redis", T + 1).waiting, progress.of("redis", T + 1).lag_s) == (0, 0.0)


def test_a_position_that_went_back_is_no_negative_rate() -> None:
    progress = Progress()
    progress.saw(T, {0: 100}, {"redis": {0: 100}})
    progress.saw(T + 1, {0: 100}, {"redis": {0: 20}})
    assert progress.of("redis", T + 1).rate == 0.0


def test_arrivals_of_seconds_that_were_not_seen_are_unknown_not_zero() -> None:
    rates = seen(10, 50, 50).arrivals()
    assert len(rates) == 60
    assert rates[:49] == [None] * 49
    assert rates[-10:] == [100.0] * 10


def test_only_the_last_half_minute_counts() -> None:
    progress = seen(100, 50, 50)
    for second in range(101, 140):
        progress.saw(T + second, {0: 105_000, 1: 105_000}, {"partner": {0: 105_000, 1: 105_000}})
    assert progress.rate_in() == 0.0


def said(*lags_s: float) -> CaptureLag:
    """What the capture said, once a second."""
    lag = CaptureLag()
    for second, lag_s in enumerate(lags_s):
        lag.saw(T + second, lag_s)
    return lag


def test_a_capture_that_has_said_nothing_is_not_called_late() -> None:
    lag = CaptureLag()
    assert (lag.lag_s, lag.trend, lag.done_in_s) == (None, None, None)


def test_a_capture_that_catches_up_tells_when_it_is_on_time() -> None:
    lag = said(*(300.0 - 4 * second for second in range(21)))
    assert (lag.lag_s, lag.trend, lag.done_in_s) == (220.0, "shrinking", 55.0)


@pytest.mark.parametrize(("gained_s", "trend"), [(0.0, "steady"), (-1.0, "growing")])
def test_a_capture_that_does_not_catch_up_is_never_done(gained_s: float, trend: str) -> None:
    lag = said(*(60.0 - gained_s * second for second in range(31)))
    assert (lag.trend, lag.done_in_s) == (trend, None)


def test_a_clock_that_differs_from_postgresqls_makes_nobody_late() -> None:
    assert said(*[40.0, 40.0, 0.0, 40.0, 40.0] * 4).lag_s == 0.0


def test_what_the_capture_said_is_forgotten_after_half_a_minute() -> None:
    lag = said(500.0, *[20.0] * 31)
    assert (lag.lag_s, lag.trend) == (20.0, "steady")
