"""A short run of the crash harness, and control runs that must fail. The long ones: make crash-test, crash-controls."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crashes.controls import RUNS, Run, control, shown
from tests.crashes.faults import KINDS, plan
from tests.crashes.harness import run
from tests.crashes.processes import Processes
from tests.crashes.report import crash_section
from tests.crashes.stage import Stage
from tests.crashes.without import PROTECTIONS

SEED = int(os.environ.get("CRASH_SEED", "7"))
IN_CI = ("bigquery_fence", "acknowledgement")  # the others take as long each: make crash-controls


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    root = Path(tempfile.mkdtemp(prefix="crash-trials-"))
    made = Stage(root, Processes(True, root))
    try:
        made.open()
        yield made
    finally:
        made.close()
        shutil.rmtree(root, ignore_errors=True)


@pytest.mark.timeout(170)
def test_killed_frozen_and_cut_off_at_random_nothing_is_lost_or_doubled(stage: Stage) -> None:
    outcome = run(stage, SEED, kills=8)
    assert outcome.findings == []
    assert outcome.verdict.events > 500
    assert sum(outcome.kills.values()) >= 8


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", IN_CI)
def test_without_its_protection_the_count_of_events_fails(stage: Stage, name: str) -> None:
    [chosen] = [each for each in RUNS if each.protection == name]
    assert shown(control(stage, chosen), chosen)


def test_every_protection_has_a_control_run() -> None:
    assert {each.protection for each in RUNS} == PROTECTIONS.keys()
    assert all(isinstance(each, Run) for each in RUNS)


def test_a_seed_makes_the_same_plan_and_all_kinds_come_up() -> None:
    assert plan(3, 50) == plan(3, 50)
    assert plan(3, 50) != plan(4, 50)
    assert sum(fault.kills for fault in plan(3, 50)) >= 50
    assert {fault.kind for seed in range(20) for fault in plan(seed, 25)} == KINDS.keys()


def test_a_plan_needs_something_that_kills() -> None:
    with pytest.raises(ValueError, match="kills"):
        plan(1, 5, only=("freeze",))


def test_the_section_names_lost_and_doubled_of_every_destination() -> None:
    section = crash_section()
    assert section.startswith("## Crashes")
