"""The state of a sink's stage from its numbers."""

from dataclasses import replace
from typing import Any

import pytest

from api.stages import LATE_S, UNMOVED_S, Breaker, PartitionProgress, Stage, Trouble, state_of

FINE = Stage("redis", "unknown", lag_s=0.4, lag_events=12, rate=100.0, trend="steady", breaker=Breaker())
WORDS = Trouble(0.0, "It answers 503.", "Wait.")


def partitions(*unmoved_s: float) -> list[PartitionProgress]:
    """As many partitions; one that has not moved for any time has events that wait."""
    return [
        PartitionProgress(number, 10, 20 if still else 10, 10 if still else 0, still, still)
        for number, still in enumerate(unmoved_s)
    ]


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "ok"),
        ({"breaker": Breaker("open", 3.0)}, "stopped"),
        ({"silent_s": UNMOVED_S}, "stopped"),
        ({"silent_s": UNMOVED_S - 1}, "ok"),
        ({"partitions": partitions(UNMOVED_S, UNMOVED_S)}, "stopped"),
        ({"partitions": partitions(UNMOVED_S, 0.0)}, "ok"),  # a partition stands still: the phase says so
        ({"partitions": partitions(UNMOVED_S, 1.0)}, "ok"),
        ({"partitions": partitions(UNMOVED_S, 0.0), "error": WORDS}, "stopped"),
        ({"partitions": partitions(1.0, 1.0), "error": WORDS}, "ok"),  # it may be over with the next try
        ({"lag_s": LATE_S + 1, "trend": "shrinking"}, "catching_up"),
        ({"lag_s": LATE_S + 1, "trend": "growing"}, "behind"),
        ({"lag_s": LATE_S + 1, "trend": "steady"}, "behind"),
        ({"lag_s": LATE_S}, "ok"),
        ({"lag_s": None}, "unknown"),
    ],
)
def test_a_state_from_its_numbers(changes: dict[str, Any], state: str) -> None:
    assert state_of(replace(FINE, **changes), running=True, quiet=False) == state


def test_it_idles_when_all_is_quiet_and_nothing_waits() -> None:
    assert state_of(replace(FINE, lag_events=0), running=True, quiet=True) == "idle"
    assert state_of(FINE, running=True, quiet=True) == "ok"


def test_it_starts_until_it_has_a_position_wherever_there_is_something() -> None:
    empty, filled = PartitionProgress(0, None, 0, None, None, 0.0), PartitionProgress(1, None, 7, None, None, 0.0)
    assert state_of(replace(FINE, partitions=[filled]), running=True, quiet=False) == "starting"
    assert state_of(replace(FINE, partitions=[empty]), running=True, quiet=False) == "ok"
    assert state_of(replace(FINE, partitions=[empty]), running=False, quiet=False) == "starting"
