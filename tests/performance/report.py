"""METRICS.md from the JSON results alone: python -m tests.performance.report

Nothing is measured here. What has not been run says so, with the command that runs it. What limits a figure, in words,
is tests/performance/limits.md: it is copied in.
"""

import sys
from collections.abc import Collection, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.performance.pictures import all_pictures, result
from tests.performance.record import RESULTS
from tests.performance.targets import TARGETS, Target
from tests.pipeline import ROOT

METRICS = ROOT / "METRICS.md"
LIMITS = Path(__file__).parent / "limits.md"
CRASHES = "tests.crashes.report"
HEAD = """\
# Metrics

Every figure here was measured on one machine by a command that is named with it; `make metrics` writes this page from
the JSON files under `tests/performance/results/`, which hold machine, versions, commit and raw samples. `make bench`
measures all of it again. Figures are medians, with the range where there are several rounds; ratios are between things
that ran one after another in the same round. Another machine gives other figures: compare ratios.
"""
COLUMNS = {  # of the table of a bench: suffix of the figure's name -> (title, digits)
    "bench_drain": {
        "rate": ("events/s", 0),
        "of_raw": ("of raw x1", 2),
        "of_naive": ("x naive", 1),
        "cpu_per_million": ("CPU s/M", 2),
        "redis_cpu_per_million": ("Valkey s/M", 2),
        "kafka_cpu_per_million": ("broker s/M", 2),
        "rss_mb": ("RSS MB", 0),
        "startup_s": ("start s", 1),
        "first_s": ("+ first event s", 1),
    },
    "bench_scale": {
        "rate": ("events/s", 0),
        "of_one": ("of one process", 2),
        "cpu_per_million": ("CPU s/M", 2),
        "rss_mb": ("RSS MB", 0),
    },
    "bench_contents": {
        "rate": ("events/s", 0),
        "of_raw": ("of raw", 2),
        "cpu_per_million": ("CPU s/M", 2),
        "rss_mb": ("RSS MB", 0),
        "first_s": ("first event s", 1),
    },
    "bench_capture": {
        "rate": ("rows/s", 0),
        "of_ceiling": ("of the ceiling", 2),
        "cpu_per_million": ("CPU s/M", 1),
        "rss_mb": ("RSS MB", 0),
        "loaded": ("rows/s loaded", 0),
        "behind_s": ("s until all in Kafka", 2),
    },
    "bench_freshness": {
        "p50": ("p50 ms", 1),
        "p95": ("p95 ms", 1),
        "p99": ("p99 ms", 1),
        "p100": ("max ms", 1),
    },
    "bench_api": {"p50": ("p50 ms", 1), "p95": ("p95 ms", 1), "p99": ("p99 ms", 1), "max": ("max ms", 1)},
    "bench_recovery": {"seconds": ("s to first new output", 2)},
}
TITLES = (
    ("bench_drain", "Throughput: emptying the topic", ""),
    ("bench_freshness", "Freshness: from commit to visible", "freshness"),
    ("bench_scale", "More processes", "scale"),
    ("bench_contents", "More contents", "contents"),
    ("bench_backlog", "An hour of backlog while live traffic goes on", "backlog"),
    ("bench_capture", "From PostgreSQL to Kafka", ""),
    ("bench_recovery", "Recovery and snapshots", ""),
    ("bench_api", "The API under load", ""),
    ("bench_audit", "The audit", ""),
    ("bench_steps", "CPU microseconds per event of each step", ""),
)


def main() -> None:
    """Write METRICS.md and the pictures."""
    METRICS.write_text(page({path.stem for path in all_pictures()}), encoding="utf-8")
    sys.stdout.write(f"{METRICS}\n")


def page(pictures: Collection[str] = ()) -> str:
    """The whole page. pictures: names of those that were drawn."""
    parts = [HEAD, *_targets(), *_limits()]
    for bench, title, picture in TITLES:
        parts += [f"## {title}\n", *_section(bench)]
        if picture in pictures:
            parts.append(f"![{title}](docs/pictures/{picture}.svg)\n")
    parts += [*_profile(), _crashes()]
    return "\n".join(parts).rstrip() + "\n"


def _targets() -> Iterator[str]:
    yield "## Targets\n"
    yield _table(["what", "figure", "target", "", "command"], [judged(target) for target in TARGETS])


def judged(target: Target) -> list[str]:
    """A row: what, figure, target, whether it is met and by which factor, command."""
    measured = result(target.bench)
    figure = (measured or {}).get("figures", {}).get(target.figure)
    command = f"`make {_make(target.bench)}`"
    if figure is None:
        return [target.what, "not measured", target.text, "", command]
    value = figure["high" if target.at_most else "low"] if target.worst else figure["median"]
    share = (target.value / value if target.at_most else value / target.value) if value and target.value else 1.0
    met = "met" if target.compares(value, target.value) else "**not met**"
    shown = f"{_shown(figure, target.digits)} {target.unit}".rstrip()
    return [target.what, shown, target.text, f"{met} ({share:.2f}x)", command]


def _section(bench: str) -> Iterator[str]:
    found = sorted(path.stem for path in RESULTS.glob(f"{bench}*.json"))
    if not found:
        yield f"Not measured yet: `make {_make(bench)}`.\n"
        return
    for name in sorted(found, key=lambda each: (len(each), each)):
        measured = result(name)
        assert measured is not None
        yield _where(name, measured)
        yield from (f"{note}.\n" for note in measured["notes"])
        yield _figures(bench, measured)


def _where(name: str, measured: dict[str, Any]) -> str:
    machine, versions = measured["machine"], measured["versions"]
    libraries = ", ".join(f"{library} {versions[library]}" for library in ("bytewax", "confluent-kafka", "numpy"))
    changed = f" with {measured['changed_files']} changed files" if measured["changed_files"] else ""
    return (
        f"`{measured['command']}`, {measured['at'][:16].replace('T', ' ')} UTC, {measured['duration_s']:,.0f} s, "
        f"commit {measured['commit']}{changed}; {machine['cores']} x {machine['cpu']}, {machine['memory_gb']} GB, load "
        f"{machine['load'][0]} at its end; Python {versions['python']}, {libraries}. "
        f"Raw: `tests/performance/results/{name}.json`.\n"
    )


def _figures(bench: str, measured: dict[str, Any]) -> str:
    """The figures `name.suffix` as a row for each name; others as a list."""
    columns = COLUMNS.get(bench, {})
    rows: dict[str, dict[str, str]] = {}
    others = []
    for key, figure in measured["figures"].items():
        name, _, suffix = key.rpartition(".")
        if name and suffix in columns:
            rows.setdefault(name, {})[suffix] = _shown(figure, columns[suffix][1])
        elif not key.startswith("cpu.") and suffix != "of_raw_as_many":
            others.append([key, _shown(figure, 2)])
    used = [suffix for suffix in columns if any(suffix in row for row in rows.values())]
    parts = []
    if rows:
        head = ["", *(columns[suffix][0] for suffix in used)]
        parts.append(_table(head, [[name, *(row.get(suffix, "") for suffix in used)] for name, row in rows.items()]))
    if others:
        parts.append(_table(["figure", ""], others))
    used_cores = {key[4:]: each["median"] for key, each in measured["figures"].items() if key.startswith("cpu.")}
    if used_cores:
        parts.append("Cores used: " + ", ".join(f"{name} {share:.2f}" for name, share in used_cores.items()) + ".\n")
    return "\n".join(parts)


def _limits() -> Iterator[str]:
    if LIMITS.exists():
        yield LIMITS.read_text(encoding="utf-8").rstrip() + "\n"


def _profile() -> Iterator[str]:
    measured = result("bench_profile")
    if measured is None:
        return
    yield "## Where the time goes\n"
    yield _where("bench_profile", measured)
    for flow in dict.fromkeys(sample["flow"] for sample in measured["samples"]):
        lines = [sample for sample in measured["samples"] if sample["flow"] == flow]
        yield _table(
            [f"{flow}, by line", "share"], [[f"`{each['line']}`", f"{each['share']:.1%}"] for each in lines[:12]]
        )


def _crashes() -> str:
    """Written by the crash trials' own report, where there is one."""
    if find_spec(CRASHES) is None:
        return "## Crashes\n\nNot measured yet: `make crash-test`.\n"
    return str(import_module(CRASHES).crash_section())


def _make(bench: str) -> str:
    """bench_freshness_2000 -> bench-freshness RATE=2000"""
    name, _, rate = bench.removeprefix("bench_").partition("_")
    return f"bench-{name}" + (f" RATE={rate}" if rate else "")


def _shown(figure: dict[str, Any], digits: int) -> str:
    median, low, high = (f"{figure[key]:,.{digits}f}" for key in ("median", "low", "high"))
    return median if figure["samples"] == 1 or low == high else f"{median} ({low}-{high})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    right = ["---", *["---:"] * (len(head) - 1)]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, right, *rows)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
