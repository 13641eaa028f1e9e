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


def scale() -> Path | None:
    """Events per second over the number of processes."""
    measured = result("bench_scale")
    if measured is None:
        return None
    canvas = Canvas(figsize=(6, 3.2), layout="constrained")
    axis = canvas.subplots()
    figures = {key.removesuffix(".rate"): each for key, each in measured["figures"].items() if key.endswith(".rate")}
    for flow in dict.fromkeys(name.split(".")[0] for name in figures):
        line = {
            int(name.split(".")[1]): each
            for name, each in figures.items()
            if name.split(".")[0] == flow and "cluster" not in name
        }
        medians = [each["median"] for each in line.values()]
        spread = [
            [each["median"] - each["low"] for each in line.values()],
            [each["high"] - each["median"] for each in line.values()],
        ]
        drawn = axis.errorbar(list(line), medians, spread, marker="o", capsize=3, label=flow)
        for name, each in figures.items():
            if name.startswith(f"{flow}.cluster"):
                place = int(name.split("cluster")[1])
                axis.plot(
                    place,
                    each["median"],
                    marker="x",
                    linestyle="",
                    color=drawn[0].get_color(),
                    label=f"{flow}, cluster",
                )
    cores = measured["machine"]["cores"]
    axis.set(xlabel=f"processes ({cores} cores, broker beside them)", ylabel="events/s", ylim=(0, None))
    axis.set_xticks(measured["options"]["processes"])
    axis.legend(frameon=False)
    return _saved(canvas, "scale")


def contents() -> Path | None:
    """Events per second and memory over the number of contents."""
    measured = result("bench_contents")
    if measured is None:
        return None
    sizes = measured["options"]["sizes"]
    canvas = Canvas(figsize=(6, 3.2), layout="constrained")
    rates, memory = canvas.subplots(1, 2)
    for axis, key, label in ((rates, "rate", "events/s"), (memory, "rss_mb", "peak RSS, MB")):
        axis.plot(sizes, [measured["figures"][f"{size}.{key}"]["median"] for size in sizes], marker="o")
        axis.set(xscale="log", xlabel="contents", ylabel=label, ylim=(0, None))
    return _saved(canvas, "contents")


def backlog() -> Path | None:
    """How old a live event was when it became visible, while the backlog was read and after."""
    measured = result("bench_backlog")
    if measured is None:
        return None
    sample = measured["samples"][0]
    canvas = Canvas(figsize=(6, 3.2), layout="constrained")
    axis = canvas.subplots()
    axis.plot(sample["at_s"], sample["wait_s"], linestyle="", marker=".", markersize=3)
    caught_up = measured["figures"]["caught_up_s"]["median"]
    axis.axvline(caught_up, color="tab:gray", linewidth=0.8)
    axis.text(caught_up, axis.get_ylim()[1], f" caught up after {caught_up:.0f} s", va="top", fontsize=8)
    axis.set(yscale="log", xlabel="committed so many seconds after the start", ylabel="seconds until visible")
    return _saved(canvas, "backlog")


def all_pictures() -> list[Path]:
    """Every picture for which there is a result."""
    return [path for path in (freshness(), scale(), contents(), backlog()) if path is not None]
