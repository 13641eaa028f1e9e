"""The whole way, alive: PostgreSQL -> capture -> Kafka -> Redis -> API, and how long a committed row takes."""

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg

from tests.performance.loader import PROBE_EVERY_S
from tests.performance.site import Site, launch
from tests.performance.usage import Stretch
from tests.pipeline import ROOT, Flow, Pipeline, free_port

PROBES = 2_000  # enough for 100 s
LOOK_S = 0.001
API_LOOK_S = 0.004
API_TAKES_EVERY = 4
READY_S = 60.0


@dataclass(frozen=True)
class Probe:
    """A row of which there is no other: content_id; event_s since 1970; committed_s, monotonic."""

    content_id: str
    event_s: float
    committed_s: float


@dataclass
class Seen:
    """When each probe was committed and how much later it was seen: (monotonic seconds, seconds), as they were seen.

    rate  rows/s that were loaded;  missing  probes that did not come in time
    cpu   share of a core that each process used"""

    redis: list[tuple[float, float]] = field(default_factory=list)
    api: list[tuple[float, float]] = field(default_factory=list)
    missing: int = 0
    rate: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)


@dataclass
class Live:
    """Capture, deployments for Redis and API, running on a site."""

    site: Site
    pipeline: Pipeline
    api_port: int
    flows: dict[str, Flow]
    began: float  # monotonic, when the deployments for Redis were started

    def load(self, rate: float, seconds: float, warm_up_s: float = 2.0) -> Seen:
        """Load rows for so long, and watch when the probes among them arrive. The first seconds do not count."""
        _forget_probes(self.pipeline.postgres)
        command = [sys.executable, "-m", "tests.performance.loader", self.pipeline.postgres, str(rate), str(seconds)]
        seen = Seen()
        in_redis = _Watch(seen.redis, self._in_redis(), LOOK_S)
        in_api = _Watch(seen.api, self._in_api(), API_LOOK_S)
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as loader:
            pids = {name: flow.process.pid for name, flow in self.flows.items()} | self.site.pids
            assert loader.stdout is not None
            used, began, number = None, 0.0, 0
            for line in loader.stdout:
                content_id, *times = line.split()
                if content_id == "rows/s":
                    seen.rate = float(times[0])
                    break
                if used is None:
                    used, began = Stretch.begin(pids), time.monotonic()
                number += 1
                if number * PROBE_EVERY_S < warm_up_s:
                    continue
                probe = Probe(content_id, *map(float, times))
                in_redis.add(probe)
                if number % API_TAKES_EVERY == 0:
                    in_api.add(probe)
        assert loader.returncode == 0
        assert used is not None
        took = time.monotonic() - began
        seen.cpu = {name: seconds_ / took for name, seconds_ in used.seconds().items()}
        seen.missing = in_redis.end() + in_api.end()
        return seen

    def _in_redis(self) -> Callable[[list[Probe]], list[bool]]:
        """Which probes the minute's totals hold: what both boards are read from."""
        client = self.pipeline.client()
        partitions = [self.pipeline.keys(partition) for partition in range(self.pipeline.partitions)]

        def look(probes: list[Probe]) -> list[bool]:
            asking = client.pipeline(transaction=False)
            for probe in probes:
                for keys in partitions:
                    asking.hexists(keys.totals("minute", int(probe.event_s) // 60 * 60), probe.content_id)
            answers = asking.execute()
            width = len(partitions)
            return [any(answers[at * width : (at + 1) * width]) for at in range(len(probes))]

        return look

    def _in_api(self) -> Callable[[list[Probe]], list[bool]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=10)

        def there(probe: Probe) -> bool:
            connection.request("GET", f"/content/{probe.content_id}/stats")
            answer = connection.getresponse()
            body = answer.read()
            return answer.status == 200 and json.loads(body)["rolling"]["events"] > 0

        return lambda probes: [there(probe) for probe in probes]


class _Watch:
    """A thread that looks for what is outstanding, all of it each time, so that one late probe delays no other."""

    def __init__(
        self, waits: list[tuple[float, float]], look: Callable[[list[Probe]], list[bool]], pause_s: float
    ) -> None:
        self._waits, self._look, self._pause_s = waits, look, pause_s
        self._outstanding: list[Probe] = []
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def add(self, probe: Probe) -> None:
        with self._lock:
            self._outstanding.append(probe)

    def end(self, patience_s: float = 30.0) -> int:
        """Wait for what is outstanding; how many never came."""
        deadline = time.monotonic() + patience_s
        while self._outstanding and self._failure is None and time.monotonic() < deadline:
            time.sleep(0.05)
        self._ending.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return len(self._outstanding)

    def _run(self) -> None:
        try:
            while not self._ending.wait(self._pause_s):
                with self._lock:
                    asked = list(self._outstanding)
                if not asked:
                    continue
                found = self._look(asked)
                now = time.monotonic()
                arrived = [probe for probe, there in zip(asked, found, strict=True) if there]
                self._waits.extend((probe.committed_s, now - probe.committed_s) for probe in arrived)
                with self._lock:
                    self._outstanding = [probe for probe in self._outstanding if probe not in arrived]
        except Exception as failure:
            self._failure = failure


def put_probes(dsn: str) -> None:
    """Contents that only probes are about, known before the flows start."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO content SELECT gen_random_uuid(), 'probe-' || lpad(n::text, 5, '0'), 'A probe', 'video', 60, "
            "now() FROM generate_series(1, %s) n ON CONFLICT DO NOTHING",
            [PROBES],
        )


def _forget_probes(dsn: str) -> None:
    """Those that were used already are no probes any more."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "UPDATE content SET slug = 'used-' || slug WHERE slug ~ '^probe-' "
            "AND id IN (SELECT content_id FROM engagement_events WHERE device = 'probe')"
        )


@contextmanager
def live(site: Site, processes: int = 1) -> Iterator[Live]:
    """Start capture, `processes` deployments for Redis, and the API; ready when the block begins."""
    put_probes(site.pipeline.postgres)
    pipeline = site.again("live")
    port = free_port()
    pipeline.env |= {"CDC_SLOT": pipeline.group.replace("-", "_"), "API_PORT": str(port)}
    shares = [list(range(pipeline.partitions))[number::processes] for number in range(processes)]
    flows = {"capture": launch(pipeline, "capture", "bytewax.run", "dataflows.cdc_capture")}
    began = time.monotonic()
    for number, share in enumerate(shares):
        name = f"redis-{number}"
        flows[name] = pipeline.start(name, snapshot_s=5, SINKS="redis", KAFKA_PARTITIONS=",".join(map(str, share)))
    flows["api"] = launch(pipeline, "api", "api")
    try:
        for flow in list(flows.values())[1:-1]:
            pipeline.claimed(flow)
        until(lambda: _answers(port), flows["api"])
        until(lambda: slot_active(pipeline), flows["capture"])
        yield Live(site, pipeline, port, flows, began)
    finally:
        for flow in flows.values():
            flow.kill()


def until(ready: Callable[[], bool], flow: Flow) -> None:
    """Wait; a flow that has ended, or takes longer than READY_S, is an error with its words."""
    deadline = time.monotonic() + READY_S
    while not ready():
        assert flow.process.poll() is None, flow.said()[-3000:]
        assert time.monotonic() < deadline, flow.said()[-3000:]
        time.sleep(0.05)


def _answers(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        connection.request("GET", "/health")
        return connection.getresponse().status < 500
    except OSError:
        return False


def slot_active(pipeline: Pipeline) -> bool:
    """Whether the capture streams."""
    with psycopg.connect(pipeline.postgres, autocommit=True) as connection:
        row = connection.execute(
            "SELECT active FROM pg_replication_slots WHERE slot_name = %s", [pipeline.env["CDC_SLOT"]]
        ).fetchone()
    return bool(row and row[0])
