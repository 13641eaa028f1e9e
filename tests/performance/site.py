"""Where a benchmark runs: servers of its own, one of each kind, and the stand-ins that answer at once."""

import copy
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from demo.services import KINDS, Server
from tests.conftest import KafkaService
from tests.performance.backlog import fill, put_contents
from tests.performance.counter_file import CounterFile
from tests.pipeline import ROOT, Flow, Pipeline, free_port

PARTNER_DELAY_MS = 5
BATCH_SIZE = 500
PROVISION_TRIES = 5


@dataclass
class StandIn:
    """A server in a process of its own that counts the events it took."""

    process: subprocess.Popen[bytes]
    counter: CounterFile
    env: dict[str, str]


@dataclass
class Site:
    """Servers and stand-ins by name, and a provisioned pipeline on them."""

    root: Path
    servers: dict[str, Server]
    pipeline: Pipeline
    contents: list[str]
    stand_ins: dict[str, StandIn] = field(default_factory=dict)
    runs: int = 0
    started: list[Flow] = field(default_factory=list)  # by all runs

    @property
    def bootstrap(self) -> str:
        return str(self.pipeline.kafka.bootstrap)

    @property
    def pids(self) -> dict[str, int]:
        """Of everything the flows talk to."""
        return {name: server.pid for name, server in self.servers.items()} | {
            f"{name} stand-in": each.process.pid for name, each in self.stand_ins.items()
        }

    def fill(self, count: int, per_second: float) -> float:
        """See backlog.fill; into the pipeline's topic."""
        return fill(self.bootstrap, self.pipeline.topic, self.contents, count, per_second)

    def topic(self, name: str, count: int, per_second: float, contents: list[str] | None = None) -> str:
        """Another topic, provisioned, with a backlog."""
        other = copy.copy(self.pipeline)
        other.topic = name
        provision(other)
        fill(self.bootstrap, name, contents or self.contents, count, per_second)
        return name

    def again(self, name: str, topic: str | None = None) -> Pipeline:
        """The pipeline for one more run from the beginning of a topic (default: its own), in a group of its own."""
        self.runs += 1
        run = copy.copy(self.pipeline)
        run.topic = topic or run.topic
        run.group = f"run{self.runs}-{name}"
        run.work = self.root / run.group
        run.work.mkdir(mode=0o755)
        run.flows = self.started
        stand_ins = [each.env for each in self.stand_ins.values()]
        run.env = {"LOG_LEVEL": "INFO", "BIGQUERY_DATASET_ID": run.group.replace("-", "_")}
        for env in stand_ins:
            run.env |= env
        provision(run)
        return run

    def stand_in(self, kind: str) -> StandIn:
        """bigquery: acknowledges at once; partner: answers after PARTNER_DELAY_MS."""
        if kind not in self.stand_ins:
            self.stand_ins[kind] = _bigquery(self.root) if kind == "bigquery" else _partner(self.root)
        return self.stand_ins[kind]

    def end_stand_ins(self) -> None:
        for each in self.stand_ins.values():
            each.process.kill()
            each.process.wait(10)


@contextmanager
def site(contents: int = 100_000, kinds: tuple[str, ...] = ("kafka", "postgres", "redis")) -> Iterator[Site]:
    """Started when the block begins, gone with it, also where this process is told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))
    root = Path(tempfile.mkdtemp(prefix="engagement-bench-"))
    root.chmod(0o711)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        servers = {}
        for kind in kinds:
            home = root / f"{kind}-server"
            home.mkdir(mode=0o711)
            servers[kind] = KINDS[kind](home)
            servers[kind].start()
            stack.callback(servers[kind].stop)
        kafka = KafkaService(servers["kafka"].address["bootstrap"])
        dsn, redis_url = servers["postgres"].address["dsn"], servers["redis"].address["url"]
        pipeline = Pipeline(kafka, dsn, redis_url, "bench", root)
        provision(pipeline)
        made = Site(root, servers, pipeline, put_contents(dsn, contents), started=pipeline.flows)
        stack.callback(pipeline.close)
        stack.callback(made.end_stand_ins)
        yield made


def provision(pipeline: Pipeline) -> None:
    """Again where the broker was too busy with another's benchmark to answer: it changes nothing that is there."""
    for left in range(PROVISION_TRIES, 0, -1):
        try:
            pipeline.provision()
            return
        except AssertionError:
            if left == 1:
                raise
            time.sleep(2)


def launch(pipeline: Pipeline, name: str, module: str, *arguments: str) -> Flow:
    """`python -m module arguments` with the pipeline's settings."""
    log = pipeline.work / f"{name}.log"
    command = [sys.executable, "-m", module, *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=pipeline.environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # as in Pipeline.start
        )
    flow = Flow(process, log)
    pipeline.flows.append(flow)
    return flow


def _bigquery(root: Path) -> StandIn:
    rest, grpc, counter = free_port(), free_port(), root / "bigquery.count"
    env = {
        "BIGQUERY_PROJECT_ID": "bench",
        "BIGQUERY_EMULATOR_HOST": f"127.0.0.1:{rest}",
        "BIGQUERY_EMULATOR_GRPC_HOST": f"127.0.0.1:{grpc}",
    }
    return _stand_in("write_api", [str(rest), str(grpc), str(counter)], counter, env, root)


def _partner(root: Path) -> StandIn:
    port, counter = free_port(), root / "partner.count"
    env = {
        "EXTERNAL_API_URL": f"http://127.0.0.1:{port}/events",
        "EXTERNAL_API_TOKEN": "bench",
        "EXTERNAL_API_BATCH_SIZE": str(BATCH_SIZE),
    }
    return _stand_in("partner_api", [str(port), str(PARTNER_DELAY_MS), str(counter)], counter, env, root)


def _stand_in(module: str, arguments: list[str], counter: Path, env: dict[str, str], root: Path) -> StandIn:
    command = [sys.executable, "-m", f"tests.performance.{module}", *arguments]
    with (root / f"{module}.log").open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, env=dict(os.environ))
    deadline = time.monotonic() + 30
    while not counter.exists():  # made before it listens
        assert process.poll() is None, (root / f"{module}.log").read_text()
        assert time.monotonic() < deadline, f"{module} did not start"
        time.sleep(0.05)
    return StandIn(process, CounterFile(counter), env)
