"""METRICS.md says what the results say, and says so where there are none."""

import json
from pathlib import Path

import pytest

from tests.performance import pictures, report
from tests.performance.targets import TARGETS, Target

FAST = Target("fast", "bench_made", "flow.rate", 100, "events/s", digits=0)
SMALL = Target("small", "bench_made", "flow.rss_mb", 400, "MB", at_most=True, worst=True, digits=0)


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (pictures, report):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    return tmp_path


def put(results: Path, **figures: list[float]) -> None:
    made = {
        name.replace("__", "."): {
            "median": sorted(of)[len(of) // 2],
            "low": min(of),
            "high": max(of),
            "samples": len(of),
        }
        for name, of in figures.items()
    }
    (results / "bench_made.json").write_text(json.dumps({"figures": made}))


def test_a_target_is_met_by_the_median(results: Path) -> None:
    put(results, flow__rate=[90, 120, 150])
    assert report.judged(FAST) == [
        "fast",
        "120 (90-150) events/s",
        ">= 100 events/s",
        "met (1.20x)",
        "`make bench-made`",
    ]


def test_a_promise_about_every_case_is_judged_by_the_worst(results: Path) -> None:
    put(results, flow__rss_mb=[300, 350, 500])
    assert report.judged(SMALL)[3] == "**not met** (0.80x)"


def test_what_was_not_measured_is_not_called_met() -> None:
    assert report.judged(FAST)[1:4] == ["not measured", ">= 100 events/s", ""]


def test_the_page_without_results_names_every_target_and_the_command_for_it() -> None:
    page = report.page()
    assert all(f"| {target.what} | not measured |" in page for target in TARGETS)
    assert "`make bench-freshness RATE=2000`" in page
