"""One run: processes empty a topic; from the first claimed position until the last event is acknowledged."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tests.performance.counter_file import CounterFile
from tests.performance.site import Site
from tests.performance.usage import Stretch, rss_peak_mb
from tests.pipeline import ROOT, Flow, Pipeline

LOOK_S = 0.02
LONGEST_S = 600.0
SINKS = {
    "redis": "redis",
    "bigquery": "bigquery",
    "partner": "partner",
    "all": "redis,bigquery,partner,dead_letters",
}
COUNTING = ("bigquery", "partner")  # the sinks whose stand-ins count
RAW = {"raw": [], "decode": ["decode"]}


@dataclass(frozen=True)
class Drained:
    """What one run took.

    seconds    from the first claimed position until all is acknowledged;  startup_s  until that position was claimed
    first_s    of these seconds, until the first event was acknowledged: contents are read, streams opened
    cpu_s      of the flow's processes in these seconds;  rss_mb  the peak of the largest of them, since its start
    servers    CPU seconds of each server and stand-in in these seconds
    """

    flow: str
    processes: int
    events: int
    seconds: float
    startup_s: float
    first_s: float
    cpu_s: float
    rss_mb: float
    servers: dict[str, float]
    cluster: bool = False

    @property
    def rate(self) -> float:
        return self.events / self.seconds

    @property
    def cpu_per_million(self) -> float:
        return self.cpu_s / self.events * 1e6

    def sample(self) -> dict[str, Any]:
        return asdict(self)


def drain(
    site: Site,
    flow: str,
    *,
    processes: int = 1,
    topic: str | None = None,
    cluster: bool = False,
    profile: Path | None = None,
) -> Drained:
    """Run `flow` (raw, decode, naive, or a key of SINKS) over the topic once.

    topic    another than the pipeline's, made by Site.topic
    cluster  the processes as one Bytewax cluster, not each on its own
    profile  where py-spy writes the stacks of the first process
    """
    topic = topic or site.pipeline.topic
    pipeline = site.again(flow, topic) if flow in SINKS else site.pipeline
    ends = pipeline.ends(topic)
    count = sum(ends.values())
    shares = _shares(list(ends), processes)
    begin = time.monotonic()
    if flow in RAW:
        running, acknowledged = _raw(site, flow, shares, topic)
    elif flow == "naive":
        running, acknowledged = _naive(site, topic, count)
    else:
        running, acknowledged = _ours(site, pipeline, flow, shares, cluster)
    try:
        measured = measure(site, flow, running, acknowledged, count, begin, profile=profile, may_end=flow == "naive")
        return replace(measured, cluster=cluster)
    finally:
        for each in running:
            each.kill()
        site.pipeline.client().flushall()


def measure(
    site: Site,
    flow: str,
    running: Sequence[Flow],
    acknowledged: Callable[[], int],
    count: int,
    began: float,
    *,
    claimed: Callable[[], bool] | None = None,
    profile: Path | None = None,
    may_end: bool = False,
) -> Drained:
    """Watch processes that were started at `began` (monotonic) until `count` events are acknowledged.

    acknowledged  how many are by now
    claimed  whether the work has begun; default: one of them has said that it claimed a partition
    """
    claimed = claimed or (lambda: any(b"partition_claimed" in each.log.read_bytes() for each in running))
    pids = site.pids
    while not claimed():
        _alive(running, began)
        time.sleep(0.005)
    claimed_at = time.monotonic()
    used = Stretch.begin({**{str(each.process.pid): each.process.pid for each in running}, **pids})
    with _profiled(running[0].process.pid, profile):
        latest, rss_mb, first_at = used.seconds(), 0.0, 0.0
        while (there := acknowledged()) < count:
            if there > 0 and not first_at:
                first_at = time.monotonic()
            _alive(running, claimed_at, may_end)
            time.sleep(LOOK_S)
            latest, rss_mb = _later(latest, used.seconds()), max(rss_mb, *_peaks(running))
        finished = time.monotonic()
        latest = _later(latest, used.seconds())
    return Drained(
        flow=flow,
        processes=len(running),
        events=count,
        seconds=finished - claimed_at,
        startup_s=claimed_at - began,
        first_s=(first_at or finished) - claimed_at,
        cpu_s=sum(latest[str(each.process.pid)] for each in running),
        rss_mb=max(rss_mb, *_peaks(running)),
        servers={name: latest[name] for name in pids},
    )


def _shares(partitions: Sequence[int], processes: int) -> list[list[int]]:
    """Which partitions each process reads: neighbours together, as KAFKA_PARTITIONS=0-1 and 2-3."""
    size = -(-len(partitions) // processes)
    return [list(partitions[first : first + size]) for first in range(0, len(partitions), size)]


def _raw(site: Site, flow: str, shares: list[list[int]], topic: str) -> tuple[list[Flow], Callable[[], int]]:
    running, counters = [], []
    for number, share in enumerate(shares):
        site.runs += 1
        path = site.root / f"{flow}-{site.runs}-{number}"
        counters.append(CounterFile(path.with_suffix(".count")))
        arguments = [site.bootstrap, topic, ",".join(map(str, share)), str(path.with_suffix(".count")), *RAW[flow]]
        command = [sys.executable, "-m", "tests.performance.raw_drain", *arguments]
        with path.open("wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=output, stderr=output)
        running.append(Flow(process, path))
        site.started.append(running[-1])
    return running, lambda: sum(counter.value for counter in counters)


def _naive(site: Site, topic: str, count: int) -> tuple[list[Flow], Callable[[], int]]:
    site.runs += 1
    work = site.root / f"naive-{site.runs}"
    work.mkdir()
    subprocess.run([sys.executable, "-m", "bytewax.recovery", str(work), "1"], check=True, cwd=ROOT)
    command = [sys.executable, "-m", "bytewax.run", "tests.performance.naive_flow:flow()"]
    command += ["-r", str(work), "-s", "5", "-b", "0"]
    env = {**os.environ, "NAIVE_BOOTSTRAP": site.bootstrap, "NAIVE_TOPIC": topic}
    with (work / "log").open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=output)
    flow = Flow(process, work / "log")
    site.started.append(flow)

    def all_or_nothing() -> int:
        assert process.poll() in (None, 0), flow.said()[-3000:]
        return count if process.returncode == 0 else 0

    return [flow], all_or_nothing


def _ours(
    site: Site, pipeline: Pipeline, flow: str, shares: list[list[int]], cluster: bool
) -> tuple[list[Flow], Callable[[], int]]:
    acknowledged = acknowledged_by(site, pipeline, SINKS[flow])
    if cluster:
        return pipeline.start_cluster(len(shares), flow, snapshot_s=5, SINKS=SINKS[flow]), acknowledged
    running = [
        pipeline.start(f"{flow}-{number}", snapshot_s=5, SINKS=SINKS[flow], KAFKA_PARTITIONS=",".join(map(str, share)))
        for number, share in enumerate(shares)
    ]
    return running, acknowledged


def acknowledged_by(site: Site, pipeline: Pipeline, sinks: str) -> Callable[[], int]:
    """How many events the slowest of these sinks has acknowledged since now; Redis: since offset 0."""
    names = sinks.split(",")
    counters = [
        (site.stand_ins[name].counter, site.stand_ins[name].counter.value) for name in names if name in COUNTING
    ]
    client = pipeline.client()
    keys = [pipeline.keys(partition).position for partition in range(pipeline.partitions)]

    def in_redis() -> int:
        asking = client.pipeline(transaction=False)
        for key in keys:
            asking.hget(key, "next")
        return sum(int(found or 0) for found in asking.execute())

    def slowest() -> int:
        taken = [counter.value - before for counter, before in counters]
        return min([*taken, in_redis()] if "redis" in names else taken)

    return slowest


def _alive(running: Sequence[Flow], since: float, may_end: bool = False) -> None:
    for each in running:
        assert may_end or each.process.poll() is None, each.said()[-5000:]
    assert time.monotonic() < since + LONGEST_S, f"not there within {LONGEST_S:.0f} s\n{running[0].said()[-5000:]}"


def _peaks(running: Sequence[Flow]) -> list[float]:
    return [rss_peak_mb(each.process.pid) for each in running]


def _later(before: dict[str, float], now: dict[str, float]) -> dict[str, float]:
    """A process that has ended no longer says what it used: its last word counts."""
    return {name: max(before[name], seconds) for name, seconds in now.items()}


@contextlib.contextmanager
def _profiled(pid: int, output: Path | None) -> Iterator[None]:
    """py-spy beside the block, which slows the process down a little; folded stacks, with line numbers."""
    if output is None:
        yield
        return
    command = [str(Path(sys.executable).parent / "py-spy"), "record", "--pid", str(pid), "--format", "raw"]
    command += ["--rate", "250", "--duration", "600", "--output", str(output)]
    profiler = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield
    finally:
        profiler.send_signal(signal.SIGINT)
        _, said = profiler.communicate(timeout=30)
        assert output.exists(), said.decode()
