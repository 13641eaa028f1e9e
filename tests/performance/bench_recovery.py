"""Kill -9, start again: how long until new output; and how long snapshots hold the flow up.

    python -m tests.performance.bench_recovery [--kills 5] [--rate 2000]

recovery  under steady traffic each deployment is killed and started again at once with its recovery directory; time
          runs from the kill to the first event that its destination acknowledges after it
snapshot  the Redis flow with the state of `--contents` contents and traffic going on: what Bytewax itself says of the
          time spent in snapshots, per epoch, and the longest stretch without an acknowledged event
"""

import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from tests.performance.backlog import Events, Feed
from tests.performance.drain import SINKS, acknowledged_by
from tests.performance.record import Record, console, table
from tests.performance.site import Site, site
from tests.pipeline import Flow, Pipeline, free_port

TICK_S = 0.02
LOOK_S = 0.002
STEADY_S = 2.0
PATIENCE_S = 120.0
EPOCH_S = 5
SNAPSHOTS = re.compile(r"^bytewax_snapshot_duration_seconds_(sum|count|bucket)\{(.*)\} (\S+)$", re.MULTILINE)


def main(
    kills: Annotated[int, typer.Option(min=1, help="of each deployment")] = 5,
    rate: Annotated[int, typer.Option(help="events a second")] = 2000,
    flows: Annotated[str, typer.Option(help="comma separated; empty: none")] = "redis,bigquery,partner",
    contents: Annotated[int, typer.Option()] = 100_000,
    filled: Annotated[int, typer.Option(help="events before the snapshots are timed")] = 600_000,
    seconds: Annotated[float, typer.Option(help="of timed snapshots")] = 21,
    output: Annotated[Path | None, typer.Option(help="JSON; default: the committed result")] = None,
) -> None:
    """Measure, print, record."""
    options = {"kills": kills, "rate": rate, "contents": contents, "filled": filled, "seconds": seconds}
    record = Record("bench_recovery", options)
    rows = []
    with site(contents) as place:
        for flow in filter(None, flows.split(",")):
            if flow != "redis":
                place.stand_in(flow)
            waits_s = list(_killed(place, flow, kills, rate))
            record.samples.append({"flow": flow, "seconds": waits_s})
            figure = record.figure(f"{flow}.seconds", waits_s)
            rows.append([flow, figure.text(2)])
        if filled:
            snapshots = _snapshots(place, filled, rate, seconds)
            record.samples.append(asdict(snapshots))
            record.figure("snapshot.mean_ms", [snapshots.mean_ms])
            record.figure("snapshot.at_most_ms", [snapshots.at_most_ms])
            record.figure("gap.p99_ms", [float(np.percentile(snapshots.gaps_ms, 99))])
            record.figure("gap.max_ms", [max(snapshots.gaps_ms)])
    table("kill -9 to the first new output, s, median (range)", ["flow", "seconds"], rows)
    for key in ("snapshot.mean_ms", "snapshot.at_most_ms", "gap.p99_ms", "gap.max_ms"):
        if key in record.figures:
            console.print(f"{key}: {record.figures[key].text(1)}")
    record.write(output)


def _killed(place: Site, flow: str, kills: int, rate: int) -> Iterator[float]:
    """Seconds from each kill to the first acknowledged event after it."""
    pipeline = place.again(flow)
    acknowledged = acknowledged_by(place, pipeline, SINKS[flow])
    running = pipeline.start(flow, snapshot_s=EPOCH_S, SINKS=SINKS[flow])
    with _traffic(place, pipeline, rate):
        _beyond(acknowledged, acknowledged(), running)
        for number in range(1, kills + 1):
            time.sleep(STEADY_S)
            running.kill()
            time.sleep(LOOK_S)  # an answer that was under way
            before, killed = acknowledged(), time.monotonic()
            running = pipeline.start(flow, snapshot_s=EPOCH_S, SINKS=SINKS[flow])
            _beyond(acknowledged, before, running)
            yield time.monotonic() - killed
            console.print(f"{flow}, kill {number}: {time.monotonic() - killed:.2f} s")
    running.kill()


@dataclass(frozen=True)
class Snapshots:
    """Of an epoch, all partitions together: mean, and a bound from the buckets of Bytewax's histogram.

    gaps_ms  each stretch without a newly acknowledged event, in milliseconds"""

    mean_ms: float
    at_most_ms: float
    gaps_ms: list[float]


def _snapshots(place: Site, filled: int, rate: int, seconds: float) -> Snapshots:
    topic = place.topic("filled-events", filled, rate)
    pipeline = place.again("snapshots", topic)
    port = free_port()
    running = pipeline.start(
        "redis",
        snapshot_s=EPOCH_S,
        SINKS="redis",
        BYTEWAX_DATAFLOW_API_ENABLED="1",
        BYTEWAX_DATAFLOW_API_PORT=str(port),
        BYTEWAX_DATAFLOW_API_CACHE_PATH=str(pipeline.work),
    )
    acknowledged = acknowledged_by(place, pipeline, "redis")
    _beyond(acknowledged, filled - 1, running)
    gaps_ms: list[float] = []
    with _traffic(place, pipeline, rate):
        time.sleep(STEADY_S)
        before = _said(port)
        latest, since, end = acknowledged(), time.monotonic(), time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(LOOK_S)
            if (there := acknowledged()) > latest:
                gaps_ms.append((time.monotonic() - since) * 1000)
                latest, since = there, time.monotonic()
    after = _said(port)
    running.kill()
    assert after, f"Bytewax says nothing of snapshots: {running.said()[-2000:]}"
    counted = {key: value - before.get(key, 0.0) for key, value in after.items()}
    parts = pipeline.partitions
    slowest = [
        float(bound)
        for (kind, bound), value in counted.items()
        if kind == "bucket" and bound != "+Inf" and value >= counted["bucket", "+Inf"]
    ]
    return Snapshots(
        mean_ms=counted["sum", ""] / max(seconds / EPOCH_S, 1) * 1000,
        at_most_ms=min(slowest, default=float("inf")) * 1000 * parts,
        gaps_ms=gaps_ms,
    )


def _said(port: int) -> dict[tuple[str, str], float]:
    """(sum, count or bucket; the bucket's bound) -> value, all steps together; empty before the first snapshot."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: dict[tuple[str, str], float] = {}
    for kind, labels, value in SNAPSHOTS.findall(text):
        bound = re.search(r'le="([^"]+)"', labels)
        key = (kind, bound[1] if bound else "")
        found[key] = found.get(key, 0.0) + float(value)
    return found


@contextmanager
def _traffic(place: Site, pipeline: Pipeline, rate: int) -> Iterator[None]:
    """Events of now into the pipeline's topic while the block runs."""
    stop = threading.Event()
    feed, events = Feed(place.bootstrap, pipeline.topic), Events(place.contents, seed=7)

    def run() -> None:
        began, sent = time.monotonic(), 0
        while not stop.wait(TICK_S):
            due = int((time.monotonic() - began) * rate)
            feed.send(events.take(np.full(due - sent, time.time())))
            sent = due

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        feed.flush()


def _beyond(acknowledged: Callable[[], int], number: int, running: Flow) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while acknowledged() <= number:
        assert running.process.poll() is None, running.said()[-3000:]
        assert time.monotonic() < deadline, running.said()[-3000:]
        time.sleep(LOOK_S)


if __name__ == "__main__":
    typer.run(main)
