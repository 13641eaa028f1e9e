"""Pictures for METRICS.md, drawn from the JSON results alone, so that they can be drawn again without measuring."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure as Canvas

from tests.performance.record import PICTURES, RESULTS

mpl.rcParams.update(
    {"svg.hashsalt": "engagement", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
)


def result(name: str) -> dict[str, Any] | None:
    """A benchmark's JSON; None where it has not been run."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return found


def freshness() -> Path | None:
    """A histogram of the milliseconds from commit to Redis, for each rate."""
    found = sorted((int(path.stem.rsplit("_", 1)[1]), path.stem) for path in RESULTS.glob("bench_freshness_*.json"))
    if not found:
        return None
    canvas = Canvas(figsize=(8, 1 + 1.3 * len(found)), layout="constrained")
    axes = np.atleast_1d(canvas.subplots(len(found), 1, sharex=True))
    edges = np.geomspace(1, 3000, 90)
    for axis, (rate, name) in zip(axes, found, strict=True):
        measured = result(name) or {}
        for where, colour in (("redis", "tab:blue"), ("api", "tab:orange")):
            figures = {each: measured["figures"][f"{where}.p{each}"]["median"] for each in (50, 99)}
            label = f"{where}: p50 {figures[50]:.0f} ms, p99 {figures[99]:.0f} ms"
            waits_ms = measured["samples"][0][f"{where}_ms"]
            axis.hist(waits_ms, bins=edges, histtype="step", density=False, color=colour, label=label)
        axis.set(xscale="log", ylabel=f"{rate:,} rows/s")
        axis.legend(frameon=False, loc="upper right", fontsize=8)
    axes[-1].set_xlabel("milliseconds from commit in PostgreSQL to visible")
    return _saved(canvas, "freshness")


def _saved(canvas: Canvas, name: str) -> Path:
    PICTURES.mkdir(parents=True, exist_ok=True)
    path = PICTURES / f"{name}.svg"
    canvas.savefig(path, metadata={"Date": None})
    return path
