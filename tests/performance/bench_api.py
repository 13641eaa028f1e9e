"""How long the API takes to answer beside the running pipeline:

    python -m tests.performance.bench_api [--requests 500] [--rate 2000] [--seconds 30]

PostgreSQL, capture, Kafka, one deployment for Redis and the API on this machine; rows come at a steady rate over
100,000 contents. Most requests are for boards, some for contents as people would ask for them (Zipf), some for a
window; a stream is open. The first three seconds are not counted. Time runs from when a request is due, so that one
slow answer shows in those behind it. Ends with 1 where p99 is 20 ms or more, or an answer is no 200.
"""

import random
import subprocess
import sys
import time
from typing import Annotated

import numpy as np
import typer

from engagement.boards import iso
from tests.performance.live import Live, live
from tests.performance.record import Record, table
from tests.performance.site import Site, site
from tests.performance.usage import Stretch
from tests.pipeline import ROOT

P99_MS_MAX = 20.0
WARM_UP_S = 10.0  # rows before the first request: there is something on the boards
LEAD_S = 3.0  # requests that are not counted
KINDS = {"/top-content": "boards", "/content": "contents", "/windows": "windows"}
PATHS = 2000


def paths(place: Site, seed: int = 7) -> list[str]:
    """What is asked for: of ten requests seven boards, two contents, a window."""
    chance = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(len(place.contents))]
    contents = iter(chance.choices(place.contents, weights, k=PATHS))
    window_s = int(time.time()) // 600 * 600
    made = []
    for number in range(PATHS):
        match number % 10:
            case 3:
                made.append(f"/content/{next(contents)}/stats")
            case 6:
                made.append(f"/content/{next(contents)}/events")
            case 9:
                made.append(f"/windows/{iso(window_s * 1_000_000)}")
            case 1 | 5:
                made.append("/top-content?window=tumbling")
            case _:
                made.append(f"/top-content?limit={chance.choice([10, 10, 10, 20, 50])}")
    return made


def ask(
    running: Live, requests: float, rate: float, seconds: float
) -> tuple[list[tuple[float, int, str]], dict[str, float]]:
    """(milliseconds, status, path) of each request, and the share of a core that each process used."""
    lasts = str(WARM_UP_S + LEAD_S + seconds + 5)
    rows = [sys.executable, "-m", "tests.performance.loader", running.pipeline.postgres, str(rate), lasts]
    load = [sys.executable, "-m", "tests.performance.http_load"]
    load += map(str, (running.api_port, requests, seconds, LEAD_S))
    stream = ["curl", "-sN", "-o", "/dev/null", f"http://127.0.0.1:{running.api_port}/stream"]
    loader = subprocess.Popen(rows, cwd=ROOT, stdout=subprocess.DEVNULL)
    reader = subprocess.Popen(stream)
    try:
        time.sleep(WARM_UP_S)
        pids = {name: flow.process.pid for name, flow in running.flows.items()} | running.site.pids
        used, began = Stretch.begin(pids), time.monotonic()
        asked = subprocess.run(
            load, cwd=ROOT, input="\n".join(paths(running.site)), capture_output=True, text=True, check=True
        )
        took = time.monotonic() - began
        cpu = {name: spent / took for name, spent in used.seconds().items()}
    finally:
        for each in (loader, reader):
            each.kill()
            each.wait()
    found = [line.split("\t") for line in asked.stdout.splitlines()]
    return [(float(wait), int(status), path) for wait, status, path in found], cpu


def main(
    requests: Annotated[float, typer.Option(help="a second")] = 500,
    rate: Annotated[float, typer.Option(help="rows a second into PostgreSQL")] = 2000,
    seconds: Annotated[float, typer.Option(help="of requests")] = 30,
    contents: Annotated[int, typer.Option(help="in PostgreSQL")] = 100_000,
    keep: Annotated[bool, typer.Option(help="replace the committed result")] = True,
) -> None:
    """Measure, print, record."""
    options = {"requests": requests, "rate": rate, "seconds": seconds, "contents": contents}
    record = Record("bench_api", options)
    with site(contents) as place, live(place) as running:
        answers, cpu = ask(running, requests, rate, seconds)
    failed = [f"{status} {path}" for _, status, path in answers if status != 200 and not path.startswith("/content/")]
    by_kind: dict[str, list[float]] = {"all": [wait for wait, _, _ in answers]}
    for wait, _, path in answers:
        kind = next(name for begin, name in KINDS.items() if path.startswith(begin))
        by_kind.setdefault(kind, []).append(wait)
    rows = []
    for kind, waits in by_kind.items():
        p50, p95, p99 = np.percentile(waits, [50, 95, 99])
        for name, value in (("p50", p50), ("p95", p95), ("p99", p99), ("max", max(waits))):
            record.figure(f"{kind}.{name}", [float(value)])
        rows.append([kind, f"{len(waits):,}", *(f"{value:.1f}" for value in (p50, p95, p99, max(waits)))])
    table(
        f"milliseconds to answer, {requests:g} requests/s beside {rate:g} events/s",
        ["", "requests", "p50", "p95", "p99", "max"],
        rows,
    )
    table("share of a core", ["", "cores"], [[name, f"{share:.2f}"] for name, share in cpu.items()])
    for name, share in cpu.items():
        record.figure(f"cpu.{name}", [share])
    record.figure("failed", [len(failed)])
    record.samples = [{"ms": [round(wait, 2) for wait, _, _ in answers]}]
    if keep:
        record.write()
    if failed:
        sys.exit(f"{len(failed)} answers were no 200, the first: {failed[0]}")
    if record.figures["all.p99"].median >= P99_MS_MAX:
        sys.exit(f"p99 is not under {P99_MS_MAX:g} ms")


if __name__ == "__main__":
    typer.run(main)
