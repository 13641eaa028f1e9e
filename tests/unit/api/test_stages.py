"""The state of a stage from its numbers, and what is said of its trouble."""

import json
from dataclasses import replace
from typing import Any

import pytest

from api.processes import Processes
from api.stages import Breaker, PartitionProgress, Stage, Trouble, stage_json, state_of
from api.troubles import postgres_away, trouble_of

T = 1_800_000_000.0


def partition(waiting: int | None = 0, unmoved_s: float = 0.0, end: int = 10, number: int = 0) -> PartitionProgress:
    position = None if waiting is None else end - waiting
    return PartitionProgress(number, position, end, waiting, 1.0, unmoved_s)


ON_TIME = Stage("partner", "unknown", lag_s=0.5, lag_events=3, trend="steady", partitions=(partition(),))
SAID = Trouble(T, "503.", "Wait.")
STUCK, MOVING = partition(5, 40), partition(5, 1, number=1)


@pytest.mark.parametrize(
    ("stage", "running", "quiet", "state"),
    [
        (ON_TIME, True, False, "ok"),
        (replace(ON_TIME, lag_events=0), True, True, "idle"),
        (ON_TIME, True, True, "ok"),  # something waits still
        (replace(ON_TIME, lag_s=None), True, False, "unknown"),
        (replace(ON_TIME, breaker=Breaker("open")), True, False, "stopped"),
        (replace(ON_TIME, silent_s=27), False, False, "stopped"),
        (replace(ON_TIME, silent_s=26), False, False, "ok"),
        (replace(ON_TIME, error=SAID), True, False, "ok"),  # a try has failed; the breaker is closed
        (replace(ON_TIME, lag_s=11, trend="shrinking"), True, False, "catching_up"),
        (replace(ON_TIME, lag_s=11, trend=None), True, False, "catching_up"),
        (replace(ON_TIME, lag_s=11, trend="steady"), True, False, "behind"),
        (replace(ON_TIME, lag_s=11, trend="growing"), True, False, "behind"),
        (replace(ON_TIME, partitions=(partition(None),)), True, False, "starting"),
        (replace(ON_TIME, partitions=(partition(None, end=0),)), True, False, "ok"),
        (replace(ON_TIME, partitions=(partition(None, end=0),)), False, False, "starting"),
    ],
)
def test_the_state_follows_from_the_numbers(stage: Stage, running: bool, quiet: bool, state: str) -> None:
    assert state_of(stage, running=running, quiet=quiet) == state


def test_what_stands_still_is_down_where_its_destination_fails_and_else_stalled() -> None:
    stuck = replace(ON_TIME, partitions=(STUCK, MOVING), error=SAID)
    assert state_of(stuck, running=True, quiet=False, failing=True) == "stopped"
    assert state_of(stuck, running=True, quiet=False) == "ok"  # phases call it stalled
    assert stuck.stalled == [STUCK]
    assert state_of(replace(stuck, partitions=(MOVING,)), running=True, quiet=False, failing=True) == "ok"


def test_what_is_not_known_is_null() -> None:
    told = stage_json(Stage("partner", "unknown", breaker=Breaker("unknown")))
    assert {
        name: told[name] for name in ("lag_s", "lag_events", "rate", "trend", "done_in_s", "error")
    } == dict.fromkeys(("lag_s", "lag_events", "rate", "trend", "done_in_s", "error"))


def heard(sinks: dict[str, Any], waiting: str = "") -> Processes:
    processes = Processes(T)
    process = {"now": T, "waiting": waiting, "waiting_since": T - 20 if waiting else None}
    processes.read({"one.0-3": {"process": json.dumps(process), "sinks": json.dumps(sinks)}}, T)
    return processes


def test_the_words_of_the_destination_and_what_to_do() -> None:
    processes = heard({"partner": {"error": "the partner answers 503", "error_since": T - 60}})
    found = trouble_of("partner", processes.with_sink("partner"), 0, T, forgets_at=T + 7 * 86_400)
    assert found == Trouble(
        T - 60,
        "The partner answers 503.",
        "Nothing to do here unless it lasts past Jan 22 08:00 UTC, when Kafka starts to forget. It sends by itself, in "
        "order, once the partner answers.",
    )


def test_who_is_silent_is_to_be_started() -> None:
    processes = heard({"partner": {"error": ""}})
    found = trouble_of("partner", processes.with_sink("partner"), 40, T)
    assert found is not None
    assert (found.since, found.words) == (T - 40, "Its process has said nothing for about 40 s.")
    assert "SINKS=partner python -m bytewax.run dataflows.engagement" in found.todo
    never = trouble_of("bigquery", [], 40, T)
    assert never is not None
    assert never.words == "No process has this destination."


def test_a_process_that_waits_says_for_what() -> None:
    processes = heard({"redis": {"error": ""}}, waiting="PostgreSQL: connection refused")
    found = trouble_of("redis", processes.with_sink("redis"), 0, T)
    assert found is not None
    assert (found.since, found.words) == (T - 20, "PostgreSQL: connection refused.")
    assert postgres_away(processes.living(T).values(), T) is not None
    assert postgres_away(processes.living(T).values(), T - 15) is None  # a moment is no outage


def test_without_trouble_there_are_no_words() -> None:
    assert trouble_of("redis", heard({"redis": {"error": ""}}).with_sink("redis"), 0, T) is None
