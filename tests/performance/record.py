"""What a benchmark leaves behind: a table on the terminal, and JSON with the raw samples under results/."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.pipeline import ROOT

RESULTS = ROOT / "tests" / "performance" / "results"
PICTURES = ROOT / "docs" / "pictures"
LIBRARIES = ("bytewax", "confluent-kafka", "msgspec", "numpy", "pyarrow", "redis", "hiredis", "httpx", "grpcio")
console = Console(width=None if sys.stdout.isatty() else 140)


@dataclass(frozen=True)
class Figure:
    """A number as it is reported: the median of its samples, and their range."""

    median: float
    low: float
    high: float
    samples: int

    @classmethod
    def of(cls, samples: Iterable[float]) -> "Figure":
        values = sorted(samples)
        return cls(statistics.median(values), values[0], values[-1], len(values))

    def text(self, digits: int = 0) -> str:
        if self.samples == 1:
            return f"{self.median:,.{digits}f}"
        return f"{self.median:,.{digits}f} ({self.low:,.{digits}f}-{self.high:,.{digits}f})"


@dataclass
class Record:
    """One run of one benchmark.

    options  what it was asked for;  samples  one flat object per measurement, as measured
    figures  key -> Figure: what METRICS.md reports;  notes  sentences that belong to the figures
    """

    bench: str
    options: dict[str, Any]
    samples: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.time)

    def figure(self, key: str, samples: Iterable[float]) -> Figure:
        """Work out a figure and keep it. Without samples there is none: ValueError."""
        self.figures[key] = Figure.of(samples)
        return self.figures[key]

    def write(self, output: Path | None = None) -> Path:
        """As JSON; where a run of a smaller size must not replace the committed one, to `output`."""
        path = output or RESULTS / f"{self.bench}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "bench": self.bench,
            "command": " ".join(["python -m", _module(), *sys.argv[1:]]),
            "options": self.options,
            "at": datetime.fromtimestamp(self.began, UTC).isoformat(timespec="seconds"),
            "duration_s": round(time.time() - self.began, 1),
            "machine": machine(),
            "versions": versions(),
            "commit": _git("rev-parse", "--short", "HEAD"),
            "changed_files": len(_git("status", "--porcelain", "--untracked-files=no").splitlines()),
            "notes": self.notes,
            "figures": {key: vars(figure) for key, figure in self.figures.items()},
            "samples": [{name: _rounded(value) for name, value in sample.items()} for sample in self.samples],
        }
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        console.print(f"[dim]{path}[/dim]")
        return path


def machine() -> dict[str, Any]:
    """What the figures depend on most."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    memory_kb = int(Path("/proc/meminfo").read_text().split()[1])
    load = [round(each, 2) for each in os.getloadavg()]
    cores = len(os.sched_getaffinity(0))
    return {"cpu": cpu, "cores": cores, "memory_gb": round(memory_kb / 1e6), "os": platform.platform(), "load": load}


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; the first column is a name, the others are numbers."""
    made = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        made.add_column(column, justify="left" if number == 0 else "right", no_wrap=number == 0)
    for row in rows:
        made.add_row(*row)
    console.print(made)


def _module() -> str:
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec else sys.argv[0]


def _git(*arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return run.stdout.strip()


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value
