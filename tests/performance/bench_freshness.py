"""How old a number is when it can be seen: from the commit in PostgreSQL to Redis, and to an answer of the API.

    python -m tests.performance.bench_freshness [--rate 1000,2000,5000,10000] [--seconds 25]

PostgreSQL, capture, Kafka, one deployment for Redis and the API on this machine, a transaction every 10 ms. Time runs
from the answer to COMMIT; every 50 ms a row that is its content's only one is looked for (Redis each millisecond, API
each four), all that are outstanding at once, so that a late one is not left out. The API answers from the same totals
that its boards are sorted by.
"""

from typing import Annotated

import numpy as np
import typer

from tests.performance.live import Live, Seen, live
from tests.performance.pictures import freshness
from tests.performance.record import Record, console, table
from tests.performance.site import site

RATES = "1000,2000,5000,10000"
PERCENTILES = (50, 95, 99, 100)


def main(
    rates: Annotated[
        str, typer.Option("--rate", "--rates", help="rows a second, comma separated: one result for each")
    ] = RATES,
    seconds: Annotated[float, typer.Option(help="of load, at each rate")] = 25,
    contents: Annotated[int, typer.Option(help="in PostgreSQL")] = 100_000,
    processes: Annotated[int, typer.Option(help="deployments for Redis")] = 1,
    keep: Annotated[bool, typer.Option(help="replace the committed result")] = True,
) -> None:
    """Measure, print, draw, record."""
    rows = []
    with site(contents) as place, live(place, processes) as running:
        running.load(500, 4)  # what is slow only the first time
        for rate in map(int, rates.split(",")):
            rows += _measure(running, rate, seconds, keep)
    names = ["", *(f"p{each}" if each < 100 else "max" for each in PERCENTILES), "probes"]
    table("milliseconds from commit to visible", names, rows)
    if keep:
        freshness()


def _measure(running: Live, rate: int, seconds: float, keep: bool) -> list[list[str]]:
    options = {"rate": rate, "seconds": seconds, "contents": len(running.site.contents)}
    record = Record(f"bench_freshness_{rate}", {**options, "processes": len(running.flows) - 2})
    seen = running.load(rate, seconds)
    rows = []
    for where, waits in (("Redis", seen.redis), ("API", seen.api)):
        waits_ms = np.array([wait for _, wait in waits]) * 1000
        figures = [
            record.figure(f"{where.lower()}.p{each}", [float(np.percentile(waits_ms, each))]) for each in PERCENTILES
        ]
        rows.append([f"{rate:,} rows/s, {where}", *(figure.text(1) for figure in figures), str(len(waits_ms))])
    record.figure("rate", [seen.rate])
    record.figure("missing", [seen.missing])
    for name, share in seen.cpu.items():
        record.figure(f"cpu.{name}", [share])
    record.samples = [{"redis_ms": _ms(seen.redis), "api_ms": _ms(seen.api)}]
    _say(seen, rate)
    if keep:
        record.write()
    return rows


def _ms(waits: list[tuple[float, float]]) -> list[float]:
    return [round(wait * 1000, 2) for _, wait in waits]


def _say(seen: Seen, rate: int) -> None:
    used = ", ".join(f"{name} {share:.2f}" for name, share in seen.cpu.items() if share >= 0.01)
    console.print(f"{rate:,} rows/s asked, {seen.rate:,.0f} loaded; cores: {used}; never seen: {seen.missing}")


if __name__ == "__main__":
    typer.run(main)
