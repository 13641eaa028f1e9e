"""The hot path must not grow: what Python executes per event and what Redis is sent, counted on a fixed batch.

Nothing is timed, so a busy machine changes nothing. The budgets are half as much again as was counted when they were
written (Python 3.11): a loop per event that had none breaks them, another release of Python does not. Where a
feature is worth its work, raise the budget in the same change and say why; when a step became cheaper, lower it.
"""

import json
import os
import subprocess
import sys

import pytest

from engagement.content_rows import EVENT_SHARDS, USER_SHARDS
from tests.performance.work_per_event import EVENTS
from tests.pipeline import ROOT

BYTECODES_MAX = {
    "decode only": 12,
    "parse": 66,
    "enrich": 3,
    "totals, partial": 130,
    "totals, added up": 100,
    "Redis transaction": 50,
    "BigQuery columns": 40,
    "partner bodies": 160,
}
# Users and recent events are put behind at most so many strings, however many events or contents a write has.
REDIS_COMMANDS_MAX = (2 * (USER_SHARDS + EVENT_SHARDS) + 80) / EVENTS


@pytest.fixture(scope="module")
def counted() -> dict[str, float]:
    """In a process of its own: coverage and debuggers use the same hook of the interpreter."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    run = subprocess.run(
        [sys.executable, "-m", "tests.performance.work_per_event"],
        cwd=ROOT,
        env=env | {"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found: dict[str, float] = json.loads(run.stdout)
    return found


def test_every_step_of_the_hot_path_has_a_budget(counted: dict[str, float]) -> None:
    assert counted.keys() == {*BYTECODES_MAX, "Redis commands"}


@pytest.mark.parametrize("step", BYTECODES_MAX)
def test_a_step_executes_no_more_bytecodes_per_event_than_its_budget(counted: dict[str, float], step: str) -> None:
    assert 0 < counted[step] <= BYTECODES_MAX[step]


def test_redis_is_sent_commands_per_shard_not_per_event(counted: dict[str, float]) -> None:
    assert 0 < counted["Redis commands"] <= REDIS_COMMANDS_MAX
