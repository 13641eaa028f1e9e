"""One installation for one trial: database, topic, group, partner, BigQuery's test server, and its deployments."""

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psycopg
from bytewax.recovery import init_db_dir

from tests.crashes.child import TEST_SERVER
from tests.crashes.processes import Process
from tests.crashes.stage import Stage
from tests.fakes.bigquery_write import FakeBigQuery
from tests.pipeline import Pipeline, free_port

PARTITIONS = 4
TRIES = 4
TOKEN = "the-partner-knows-it"
LAYOUTS = {1: ("0-3",), 2: ("0-1", "2-3"), 3: ("0", "1-2", "3")}


@dataclass
class Deployment:
    """One sink (or the capture) for some Kafka partitions, and the process that it has now."""

    sink: str
    partitions: str = "0-3"
    generation: int = 0  # of its recovery directory
    process: Process | None = None
    starts: int = 0

    @property
    def name(self) -> str:
        return f"{self.sink}.{self.partitions}"

    @property
    def numbers(self) -> list[int]:
        first, _, last = self.partitions.partition("-")
        return list(range(int(first), int(last or first) + 1))


class TestServer(FakeBigQuery):
    """BigQuery of one installation: counts the rows of each Kafka partition as they land."""

    __test__ = False

    def __init__(self) -> None:
        super().__init__()
        self._counted = 0
        self._by_partition: Counter[int] = Counter()

    def landed(self, partition: int) -> int:
        with self.lock:
            self._by_partition.update(row["kafka_partition"] for row in self.rows[self._counted :])
            self._counted = len(self.rows)
        return self._by_partition[partition]

    def release(self) -> None:
        """No more faults; what was held back lands now, or is refused."""
        with self.lock:
            held, self.faults = self.faults, {}
        for fault in held.values():
            fault.gate.set()


@dataclass
class Installation:
    """Everything of one trial. without: protections switched off, by sink; settings: more of the environment"""

    stage: Stage
    group: str
    work: Path
    without: dict[str, Sequence[str]] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    deployments: list[Deployment] = field(default_factory=list)

    def open(self) -> None:
        """Make database, topics and positions, start the receiver and BigQuery's test server."""
        self.work.mkdir(parents=True, exist_ok=True)
        with psycopg.connect(self.stage.dsn("postgres"), autocommit=True) as admin:
            admin.execute(f'CREATE DATABASE "{self.group}"'.encode())
        kafka = SimpleNamespace(bootstrap=self.stage.bootstrap, properties=self.stage.properties)
        self.pipeline = Pipeline(
            kafka, self.stage.dsn(self.group), self.stage.redis_url(), self.group, self.work, partitions=PARTITIONS
        )
        self.bigquery = TestServer()
        self.bigquery.start()
        self.store, self._port = self.work / "partner.sqlite3", free_port()
        self._calls = ThreadPoolExecutor(2, thread_name_prefix="partner")
        self.pipeline.env = {
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "OPENBLAS_NUM_THREADS": "1",
            "DATABASE_URL": self.stage.dsn(self.group, proxied=True),
            "REDIS_URL": self.stage.redis_url(proxied=True),
            "CDC_SLOT": self.group,
            "BIGQUERY_PROJECT_ID": "test",
            "BIGQUERY_DATASET_ID": "fake",
            "BIGQUERY_EMULATOR_HOST": "127.0.0.1:9",
            "BIGQUERY_EMULATOR_GRPC_HOST": self.bigquery.address,
            TEST_SERVER: self.bigquery.address,
            "EXTERNAL_API_URL": f"http://127.0.0.1:{self._port}/events",
            "EXTERNAL_API_TOKEN": TOKEN,
            "EXTERNAL_API_BATCH_SIZE": "100",
            "EXTERNAL_API_TIMEOUT_SECONDS": "2",
            "KAFKA_CONFIG_FETCH_WAIT_MAX_MS": "100",  # a fifth of the CPU of 20, and data wakes a fetch all the same
            **self.settings,
        }
        self.start_receiver()
        self._run("operations.provision")

    def deploy(self, sinks: Sequence[str]) -> None:
        """Start a process for each."""
        for sink in sinks:
            self.deployments.append(Deployment(sink))
            self.start(self.deployments[-1])

    def start(self, deployment: Deployment) -> Process:
        """A new process for the deployment, on the recovery directory of its generation."""
        deployment.starts += 1
        sink = deployment.sink
        log = self.work / f"{deployment.name}.{deployment.starts}.log"
        temporary = self.work / f"tmp.{deployment.name}.{deployment.generation}"  # as of a machine of its own
        temporary.mkdir(exist_ok=True)
        env = self.pipeline.environment(TMPDIR=str(temporary), KAFKA_PARTITIONS=deployment.partitions)
        if sink == "capture":
            arguments = ["dataflows.cdc_capture"]
        else:
            env["SINKS"] = sink
            directory = self.recovery(deployment)
            if not directory.exists():
                directory.mkdir()
                init_db_dir(directory, 1)
            arguments = ["dataflows.engagement", "-r", str(directory), "-s", "1", "-b", "0"]
        without = self.without.get(sink, ())
        deployment.process = self.stage.processes.start("bytewax.run", arguments, env, log, without)
        return deployment.process

    def recovery(self, deployment: Deployment) -> Path:
        return self.work / f"state.{deployment.name}.{deployment.generation}"

    def forget_recovery(self, deployment: Deployment) -> None:
        shutil.rmtree(self.recovery(deployment), ignore_errors=True)

    def of(self, sink: str) -> list[Deployment]:
        return [deployment for deployment in self.deployments if deployment.sink == sink]

    # The partner

    def start_receiver(self) -> None:
        arguments = ["--port", str(self._port), "--store", str(self.store), "--token", TOKEN]
        env = self.pipeline.environment()
        log = self.work / "receiver.log"
        self.receiver = self.stage.processes.start("demo.partner_receiver", arguments, env, log)

    def behave(self, **behaviour: Any) -> None:
        """See demo.partner_receiver.Behaviour; nothing: healthy. Does not wait."""
        url = f"http://127.0.0.1:{self._port}/behaviour"

        def put() -> None:
            with contextlib.suppress(httpx.HTTPError):
                httpx.put(url, json=behaviour, timeout=3, trust_env=False)

        self._calls.submit(put)

    def close(self) -> None:
        """End everything of this trial; the services stay."""
        self.bigquery.stop()
        self._calls.shutdown()
        for deployment in self.deployments:
            if deployment.process is not None and deployment.process.alive:
                deployment.process.kill()
        self.receiver.kill()
        with contextlib.suppress(Exception):
            self._forget()

    def _forget(self) -> None:
        """So that later trials do not carry this one's weight."""
        self.pipeline.client().flushall()
        with psycopg.connect(self.stage.dsn("postgres"), autocommit=True) as admin:
            query = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active_pid IS NOT NULL"
            admin.execute(query)
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                with contextlib.suppress(psycopg.Error):
                    admin.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
                    break
                time.sleep(0.1)
            admin.execute(f'DROP DATABASE "{self.group}" WITH (FORCE)'.encode())
        topics = [self.pipeline.topic, self.pipeline.letters, f"{self.pipeline.topic}.positions"]
        for future in self.stage.admin.delete_topics(topics).values():
            future.result(10)

    def _run(self, module: str) -> None:
        """Idempotent commands: a broker that is starved of CPU refuses to make a topic for a moment."""
        log = self.work / f"{module}.log"
        for _ in range(TRIES):
            run = self.stage.processes.start(module, [], self.pipeline.environment(), log)
            if self.stage.processes.status(run, 60) == 0:
                return
        raise RuntimeError(f"{module} failed {TRIES} times: {run.said()}")
