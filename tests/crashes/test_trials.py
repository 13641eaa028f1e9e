"""A short run of the crash harness, and control runs that must fail. The long ones: make crash-test, crash-controls."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crashes.controls import RUNS
from tests.crashes.faults import KINDS, plan
from tests.crashes.report import crash_section
from tests.crashes.results import lines
from tests.crashes.without import PROTECTIONS

ROOT = Path(__file__).parents[2]
SEED = os.environ.get("SEED", "7")
IN_CI = "bigquery_fence"  # the others take as long each: make crash-controls


def command(module: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A process of its own: gRPC's handlers of fork must be switched off before it begins."""
    run = [sys.executable, "-m", f"tests.crashes.{module}", *arguments]
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    return subprocess.run(run, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=280)


@pytest.mark.timeout(300)
def test_killed_frozen_and_cut_off_at_random_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    results = tmp_path / "trials.jsonl"
    run = command("harness", "--kills", "6", "--seed", SEED, "--results", str(results), "--logs", str(tmp_path))
    assert run.returncode == 0, run.stdout + run.stderr
    [trial] = lines(results)
    assert trial["events"] > 300
    assert set(trial["lost"].values()) | set(trial["doubled"].values()) == {0}
    assert trial["audit_clean"]


@pytest.mark.timeout(300)
def test_without_its_protection_the_count_of_events_fails(tmp_path: Path) -> None:
    run = command("controls", IN_CI, "--results", str(tmp_path / "controls.jsonl"))
    assert run.returncode == 0, run.stdout + run.stderr
    [control] = lines(tmp_path / "controls.jsonl")
    assert control["found"].startswith("bigquery: doubled")


def test_every_protection_has_a_control_run() -> None:
    assert {each.protection for each in RUNS} == PROTECTIONS.keys()


def test_a_seed_makes_the_same_plan_and_all_kinds_come_up() -> None:
    assert plan(3, 50) == plan(3, 50)
    assert plan(3, 50) != plan(4, 50)
    assert sum(fault.kills for fault in plan(3, 50)) >= 50
    assert {fault.kind for seed in range(20) for fault in plan(seed, 25)} == KINDS.keys()


def test_a_plan_needs_something_that_kills() -> None:
    with pytest.raises(ValueError, match="kills"):
        plan(1, 5, only=("freeze",))


def test_the_section_counts_lost_and_doubled_of_every_destination() -> None:
    assert crash_section().startswith("## Crashes")
