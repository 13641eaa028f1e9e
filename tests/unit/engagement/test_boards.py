"""What readers make of the totals: spans, order and ties, the numbers of a row."""

from collections import Counter
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engagement import boards
from engagement.totals import MEASURES, WIDTH, Ints

NOW_US = 1_754_836_225_250_000  # 2025-08-10T14:30:25.25Z
START = 1_754_836_200  # 14:30:00


def total(**measures: int) -> Ints:
    return np.array([measures.get(name, 0) for name in MEASURES], dtype=np.int64)


def test_rolling_is_the_current_minute_and_the_nine_before() -> None:
    span = boards.rolling(NOW_US)
    assert (span.start_s, span.end_s) == (START - 540, START + 60)
    assert span.minutes == tuple(range(START - 540, START + 1, 60))
    assert span.buckets == tuple(("minute", minute) for minute in span.minutes)


def test_tumbling_is_the_window_that_contains_now() -> None:
    span = boards.tumbling(NOW_US, 10)
    assert (span.start_s, span.end_s) == (START, START + 600)
    assert span.minutes == tuple(range(START, START + 600, 60))
    assert span.buckets == (*(("minute", minute) for minute in span.minutes), ("window", START))
    assert boards.tumbling(START * 1_000_000 - 1, 10).end_s == START


def test_order_is_score_then_events_then_content_id() -> None:
    totals = {
        "d": total(score=5, events=1),
        "c": total(score=5, events=2),
        "b": total(score=5, events=2),
        "a": total(score=4, events=9),
        "e": total(score=6, events=1),
    }
    assert boards.ranked(totals) == ["e", "b", "c", "d", "a"]


@pytest.mark.parametrize("held", [boards.HELD_MAX, 0])
def test_rows_of_several_partitions_add_up(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "HELD_MAX", held)
    one, two = total(events=1, score=3).tobytes(), total(events=2, score=4).tobytes()
    added = boards.added([(["a", "b"], [one, None]), (["a", "b"], [two, two])])
    assert {name: row.tolist() for name, row in added.items()} == {
        "a": total(events=3, score=7).tolist(),
        "b": total(events=2, score=4).tolist(),
    }
    assert boards.added([]) == {}


@given(st.integers(0, 10**9), st.integers(1, 10**6))
def test_mean_percentage_is_two_decimals_half_up(percentages: int, count: int) -> None:
    row = boards.numbers(total(percentage_sum=percentages, percentage_count=count), 0)
    mean = (Decimal(percentages) / 100 / count).quantize(Decimal("0.01"), ROUND_HALF_UP)
    assert row["mean_percentage"] == float(mean)


@pytest.mark.parametrize(("score", "shown"), [(0, "0"), (1000, "1"), (1500, "1.5"), (1234, "1.234")])
def test_scores_are_points_with_up_to_three_decimals(score: int, shown: str) -> None:
    assert str(boards.numbers(total(score=score), 0)["score"]) == shown


def test_an_idle_content_has_zeros_and_no_mean() -> None:
    assert boards.numbers(None, 0) == {
        "score": 0,
        "events": 0,
        "unique_users": 0,
        "engagement_seconds": 0,
        "mean_percentage": None,
    }
    assert boards.types(None) == {"play": 0, "pause": 0, "finish": 0, "click": 0}
    assert len(total()) == WIDTH


def test_a_window_is_filling_then_accepts_late_events_then_is_closed() -> None:
    end_us = (START + 600) * 1_000_000
    closes_us = end_us + 600_000_000
    assert boards.window_state(START + 600, end_us - 1, [closes_us], 600) == "filling"
    assert boards.window_state(START + 600, end_us, [closes_us, closes_us - 1], 600) == "late_accepted"
    assert boards.window_state(START + 600, end_us, [closes_us, closes_us], 600) == "closed"


def test_times_are_iso_8601_in_utc() -> None:
    assert boards.iso(START * 1_000_000) == "2025-08-10T14:30:00Z"
    assert boards.iso(NOW_US) == "2025-08-10T14:30:25.250000Z"


@given(
    buckets=st.lists(st.dictionaries(st.sampled_from([b"%d" % i for i in range(30)]), st.integers(1, 50)), max_size=6),
    depth=st.integers(1, 12),
    places=st.integers(1, 8),
)
def test_nobody_who_could_be_first_is_left_out(buckets: list[dict[bytes, int]], depth: int, places: int) -> None:
    lists = [sorted(bucket.items(), key=lambda each: -each[1])[:depth] for bucket in buckets]
    kept, bound = boards.contenders([[(entry, float(score)) for entry, score in each] for each in lists], depth, places)
    totals = Counter[bytes]()
    for bucket in buckets:
        totals.update(bucket)
    others = [total for entry, total in totals.items() if entry not in kept]
    assert all(bound is not None and total <= bound for total in others)
    best = sorted(totals.values(), reverse=True)[:places]
    in_kept = sorted((totals[entry] for entry in kept), reverse=True)[:places]
    if bound is None or (len(in_kept) == places and in_kept[-1] > bound):
        assert in_kept == best


def test_few_survive_of_many() -> None:
    lists = [
        [(b"%d" % (i if i < 5 else bucket * 100 + i), 1000.0 / (i + 1)) for i in range(50)] for bucket in range(10)
    ]
    kept, _ = boards.contenders(lists, 50, 5)
    assert len(kept) < 20
