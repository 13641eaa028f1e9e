"""An hour of backlog while live traffic goes on: python -m tests.performance.bench_backlog [--rate 1000]

The topic holds an hour of events at `rate`; then the deployments for Redis start, and at the same time rows are loaded
into PostgreSQL at the same rate, captured, and queue up behind the backlog. Probes among them tell when the flow has
caught up (from then on each is visible within a second of its commit) and how fresh it is from then on.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from tests.performance.live import live
from tests.performance.pictures import backlog
from tests.performance.record import Record, table
from tests.performance.site import site

CAUGHT_UP_S = 1.0


def main(
    rate: Annotated[float, typer.Option(help="events a second, of backlog and of live traffic")] = 1000,
    hours: Annotated[float, typer.Option(help="of backlog")] = 1.0,
    seconds: Annotated[float, typer.Option(help="of live traffic")] = 60,
    processes: Annotated[int, typer.Option(help="deployments for Redis")] = 2,
    contents: Annotated[int, typer.Option()] = 100_000,
    output: Annotated[Path | None, typer.Option(help="JSON; default: the committed result")] = None,
) -> None:
    """Measure, print, draw, record."""
    events = round(rate * hours * 3600)
    options = {"rate": rate, "hours": hours, "seconds": seconds, "processes": processes, "contents": contents}
    record = Record("bench_backlog", options)
    with site(contents) as place:
        place.fill(events, rate)
        with live(place, processes) as running:
            seen = running.load(rate, seconds, warm_up_s=0)
            probes = sorted((at - running.began, wait) for at, wait in seen.redis)
    late = [number for number, (_, wait) in enumerate(probes) if wait > CAUGHT_UP_S]
    caught_up = late[-1] + 1 if late else 0
    assert caught_up < len(probes), f"not caught up within {seconds:.0f} s of live traffic: give it more --seconds"
    # the last probe that waited became visible when the flow had come that far
    until_s = sum(probes[late[-1]]) if late else probes[0][0]
    after_ms = [wait * 1000 for _, wait in probes[caught_up:]]
    figures = {
        "caught_up_s": until_s,
        "caught_up_rate": events / until_s,
        "after.p50": float(np.percentile(after_ms, 50)),
        "after.p99": float(np.percentile(after_ms, 99)),
        "after.max": max(after_ms),
    }
    for key, value in figures.items():
        record.figure(key, [value])
    record.samples = [{"at_s": [at for at, _ in probes], "wait_s": [wait for _, wait in probes]}]
    table(
        f"{events:,} events of backlog, {rate:,.0f} rows/s live, {processes} processes",
        ["", ""],
        [
            ["from start to caught up, s", f"{until_s:.1f}"],
            ["events/s meanwhile", f"{events / until_s:,.0f}"],
            *([f"then commit to Redis, {key}, ms", f"{figures[f'after.{key}']:.0f}"] for key in ("p50", "p99", "max")),
        ],
    )
    record.write(output)
    if output is None:
        backlog()


if __name__ == "__main__":
    typer.run(main)
