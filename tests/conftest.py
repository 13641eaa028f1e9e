"""Real services for the tests: started by whichever test asks first, shared by all workers of a run, gone with it.

What the environment or .env says about Kafka, PostgreSQL and Redis is not used here.
"""

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pytest

from demo.services import KINDS, BigQueryEmulator, KafkaServer, PostgresServer, ValkeyServer

T = TypeVar("T")
RUN = "ENGAGEMENT_TEST_RUN"  # folder and process id of this test run, inherited by its workers
FORBIDS_SKIPS = ("CI", "REQUIRE_ALL")


# The run: who owns the shared services


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        root = tempfile.mkdtemp(prefix="engagement-tests-")
        os.chmod(root, 0o711)  # PostgreSQL may run as another user
        os.environ[RUN] = json.dumps({"root": root, "pid": os.getpid()})


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        return
    root = Path(json.loads(os.environ[RUN])["root"])
    keepers = [int(path.read_text()) for path in root.glob("*.pid")]
    for pid in keepers:
        with contextlib.suppress(ProcessLookupError):
            ended = os.pidfd_open(pid)
            os.kill(pid, signal.SIGTERM)
            select.select([ended], [], [], 15)
            os.close(ended)
    if not list(root.glob("*/failed")):
        shutil.rmtree(root, ignore_errors=True)


def shared_service(kind: str) -> dict[str, str]:
    """Address of the run's one service of this kind; the first caller starts it, in a process of its own."""
    run = json.loads(os.environ[RUN])
    root = Path(run["root"])
    home = root / kind
    with (root / f"{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / f"{kind}.pid").exists():
            home.mkdir(mode=0o711)
            command = [sys.executable, "-m", "demo.services", kind, "--root", str(home), "--watch", str(run["pid"])]
            with (root / f"{kind}.log").open("wb") as log:
                keeper = subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                    cwd=Path(__file__).parent.parent,
                    env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")},
                )
            keeper.returncode = None
            (root / f"{kind}.pid").write_text(str(keeper.pid))
            _keepers.append(keeper)
        return _await_address(kind, root, home)


_keepers: list[subprocess.Popen[bytes]] = []  # kept: a collected Popen of a live process warns


def _await_address(kind: str, root: Path, home: Path) -> dict[str, str]:
    deadline = time.monotonic() + (600 if kind == "bigquery" else 150)  # its first start installs it
    while time.monotonic() < deadline:
        if (home / "address.json").exists():
            address: dict[str, str] = json.loads((home / "address.json").read_text())
            return address
        if (home / "failed").exists():
            raise RuntimeError((home / "failed").read_text())
        if any(keeper.poll() is not None for keeper in _keepers):
            break
        time.sleep(0.02)
    raise RuntimeError(f"{kind} did not start:\n{(root / f'{kind}.log').read_text()[-2000:]}")


# Skips


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    return _no_skip(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Any:
    report = yield
    return _no_skip(report)


def _no_skip(report: Any) -> Any:
    """Where everything must run, what is skipped has failed."""
    required = any(os.environ.get(name, "").lower() not in ("", "0", "false") for name in FORBIDS_SKIPS)
    if required and report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped, where nothing may be: {report.longrepr}"
    return report


# Fixtures


def poll(condition: Callable[[], T], timeout: float = 10, message: str = "the condition") -> T:
    """Ask until the answer is truthy, and return it. Raises AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout} s for {message}; last answer: {answer!r}")
        time.sleep(0.01)
    return answer


@pytest.fixture(scope="session")
def wait_for() -> Callable[..., Any]:
    """wait_for(condition, timeout=10, message=...): the truthy answer of condition()."""
    return poll


@pytest.fixture
def unique() -> str:
    """A name nobody else uses: letters and digits, fit for topics, groups, slots, databases, key prefixes."""
    return f"t{uuid.uuid4().hex[:12]}"


@dataclass
class KafkaService:
    """The run's broker."""

    bootstrap: str
    properties: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.properties = {"bootstrap.servers": self.bootstrap}

    @cached_property
    def admin(self) -> Any:
        from confluent_kafka.admin import AdminClient

        return AdminClient(self.properties)

    def topic(self, partitions: int = 4, name: str | None = None, **config: str | int) -> str:
        """A fresh topic with all its leaders elected; LogAppendTime unless `message_timestamp_type` says otherwise.

        config  topic settings, underscores for dots: cleanup_policy="compact"
        """
        from confluent_kafka.admin import NewTopic

        name = name or f"t{uuid.uuid4().hex[:12]}"
        settings = {"message.timestamp.type": "LogAppendTime"}
        settings |= {key.replace("_", "."): str(value) for key, value in config.items()}
        self.admin.create_topics([NewTopic(name, partitions, 1, config=settings)])[name].result(20)

        def led() -> bool:
            topic = self.admin.list_topics(name, timeout=5).topics[name]
            return len(topic.partitions) == partitions and all(p.leader >= 0 for p in topic.partitions.values())

        poll(led, message=f"leaders of {name}")
        return name

    def topic_id(self, name: str) -> str:
        """Kafka's id of this incarnation of the topic, as text."""
        from confluent_kafka import TopicCollection

        return str(self.admin.describe_topics(TopicCollection([name]))[name].result(10).topic_id)


@pytest.fixture(scope="session")
def kafka() -> KafkaService:
    return KafkaService(shared_service("kafka")["bootstrap"])


@pytest.fixture(scope="session")
def redis_url() -> str:
    """The run's Valkey, database 0, shared by all tests: give each test its own key prefix."""
    return shared_service("redis")["url"]


@pytest.fixture
def postgres(unique: str) -> Iterator[str]:
    """DSN of a fresh, empty database. Slots belong to the whole server: name them after `unique`."""
    import psycopg

    server = shared_service("postgres")
    with psycopg.connect(server["dsn"], autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{unique}"')
    yield f"postgresql://postgres@127.0.0.1:{server['port']}/{unique}"
    with psycopg.connect(server["dsn"], autocommit=True) as admin:
        _drop_slots(admin, unique)
        admin.execute(f'DROP DATABASE IF EXISTS "{unique}" WITH (FORCE)')


def _drop_slots(admin: Any, database: str) -> None:
    """A slot left behind keeps its database from being dropped, and WAL."""

    def dropped() -> bool:
        slots = admin.execute(
            "SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = %s", [database]
        ).fetchall()
        for slot, active in slots:
            if active:
                admin.execute("SELECT pg_terminate_backend(%s)", [active])
            else:
                admin.execute("SELECT pg_drop_replication_slot(%s)", [slot])
        return not slots

    poll(dropped, message=f"replication slots of {database} to go")


@dataclass(frozen=True)
class BigQueryService:
    """The run's BigQuery stand-in: host:port of REST and gRPC (plaintext), and a project."""

    rest: str
    grpc: str
    project: str


@pytest.fixture(scope="session")
def bigquery_emulator() -> BigQueryService:
    """Shared by all tests: give each its own dataset."""
    return BigQueryService(**shared_service("bigquery"))


@contextlib.contextmanager
def own(kind: str) -> Iterator[Any]:
    """A server of this test alone: it may stop, kill, pause, flush and restart it."""
    root = Path(tempfile.mkdtemp(prefix=f"engagement-{kind}-"))
    root.chmod(0o711)
    server = KINDS[kind](root)
    try:
        server.start()
        yield server
    finally:
        if server.child is not None:
            with contextlib.suppress(ProcessLookupError):
                server.resume()
            server.stop()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def redis_server() -> Iterator[ValkeyServer]:
    """.url .flush() .stop() .kill() .start() .pause() .resume() .data_dir; the port stays through restarts."""
    with own("redis") as server:
        yield server


@pytest.fixture
def kafka_server() -> Iterator[KafkaServer]:
    """.bootstrap .stop() .kill() .start() .pause() .resume(); the port stays through restarts."""
    with own("kafka") as server:
        yield server


@pytest.fixture
def postgres_server() -> Iterator[PostgresServer]:
    """.dsn .stop() .kill() .start() .pause() .resume() .data_dir; the port stays through restarts."""
    with own("postgres") as server:
        yield server


@pytest.fixture
def bigquery_server() -> Iterator[BigQueryEmulator]:
    """.rest .grpc .project .stop() .kill() .start() .pause() .resume(); the ports stay through restarts."""
    with own("bigquery") as server:
        yield server


@pytest.fixture
def pipeline(kafka: KafkaService, postgres: str, redis_url: str, unique: str, tmp_path: Path) -> Iterator[Any]:
    """A provisioned pipeline of this test alone (tests/pipeline.py); its processes end with the test."""
    from tests.pipeline import Pipeline

    made = Pipeline(kafka, postgres, redis_url, unique, tmp_path)
    made.provision()
    try:
        yield made
    finally:
        made.close()
