"""Every metric has a unit, says what to do when it moves, and is moved by something."""

import ast
import re
from pathlib import Path

import pytest
from prometheus_client import Counter, Gauge, Histogram

import metrics

ROOT = Path(__file__).parent.parent.parent
ALL = {name: each for name, each in vars(metrics).items() if isinstance(each, Counter | Gauge | Histogram)}
COUNTED = ("rows", "events", "errors", "letters")
MEASURED = ("seconds", "bytes", "ratio")
STATES = ("open",)  # 1 or 0
MOVES = {"inc", "set", "observe"}
OF_THE_DESIGN = {
    *("processed_events", "late_events", "rejected_events", "skipped_events"),
    *("processing_latency_seconds", "sink_errors", "kafka_lag_seconds"),
}


def name_of(metric: Counter | Gauge | Histogram) -> str:
    return str(next(iter(metric.collect())).name)


def help_of(metric: Counter | Gauge | Histogram) -> str:
    return str(next(iter(metric.collect())).documentation)


@pytest.mark.parametrize("name", ALL)
def test_its_name_ends_with_its_unit(name: str) -> None:
    units = COUNTED if isinstance(ALL[name], Counter) else (*MEASURED, *STATES)
    assert name_of(ALL[name]).rpartition("_")[2] in units


@pytest.mark.parametrize("name", ALL)
def test_it_says_what_it_means_and_what_to_do(name: str) -> None:
    assert re.fullmatch(r"[A-Z1][^.]+\. (Rises|Flat while [\w ]+): .{10,}\.", help_of(ALL[name]))


def moved() -> set[str]:
    """The metrics on which something calls inc, set or observe."""
    found = set()
    for folder in ("sources", "sinks", "dataflows", "api"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                match node:
                    case ast.Call(func=ast.Attribute(value=moving, attr=call)) if call in MOVES:
                        found |= {
                            each.attr
                            for each in ast.walk(moving)
                            if isinstance(each, ast.Attribute)
                            and isinstance(each.value, ast.Name)
                            and each.value.id == "metrics"
                        }
    return found


def test_each_is_moved_by_something_and_nothing_else_is_moved() -> None:
    assert moved() == ALL.keys()


def test_those_of_the_design_are_there() -> None:
    assert {name_of(each) for each in ALL.values()} >= OF_THE_DESIGN
