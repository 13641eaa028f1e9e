"""Which systems the demo uses: those that the environment names, and its own for the rest."""

import hashlib
from collections.abc import Container, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from demo.services import BigQueryEmulator, KafkaServer, PostgresServer, Server, ValkeyServer
from demo.services.server import Say

NAMED_BY = {
    "kafka": ("KAFKA_BOOTSTRAP_SERVERS",),
    "postgres": ("DATABASE_URL", "DATABASE_URL_FILE", "POSTGRES_HOST"),
    "redis": ("REDIS_URL", "REDIS_URL_FILE", "REDIS_HOST", "REDIS_CLUSTER_NODES"),
    "bigquery": ("BIGQUERY_PROJECT_ID", "GOOGLE_CLOUD_PROJECT", "BIGQUERY_EMULATOR_HOST"),
    "partner": ("EXTERNAL_API_URL",),
}
# What would make a process of the demo do other work than its job says.
NOT_PASSED_ON = ("SINKS", "KAFKA_PARTITIONS", "HEALTH_PORT")


def external(env: Mapping[str, str]) -> set[str]:
    """The systems that this environment names."""
    return {system for system, names in NAMED_BY.items() if any(env.get(name) for name in names)}


def run_folder(base: Path, env: Mapping[str, str]) -> Path:
    """Where this combination of systems keeps its data: positions in one Kafka mean nothing in another."""
    values = sorted(f"{name}={env[name]}" for names in NAMED_BY.values() for name in names if env.get(name))
    if not values:
        return base
    return base / f"with-{hashlib.sha256(chr(10).join(values).encode()).hexdigest()[:8]}"


@dataclass
class Systems:
    """The demo's own servers, those of them that are needed, and the environment that leads to all systems.

    env  of the demo's processes; completed as servers get their addresses
    """

    folder: Path
    logs: Path
    env: dict[str, str]
    named: set[str] = field(default_factory=set)
    servers: dict[str, Server] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.named = external(self.env)
        kinds: dict[str, type[Server]] = {
            "kafka": KafkaServer,
            "postgres": PostgresServer,
            "redis": ValkeyServer,
            "bigquery": BigQueryEmulator,
        }
        for system, kind in kinds.items():
            if system not in self.named:
                log = self.logs / f"{kind.name.lower().replace(' ', '-')}.log"
                self.servers[system] = kind(self.folder / system, log=log)
        for name in NOT_PASSED_ON:
            self.env.pop(name, None)

    def start(self, systems: Iterable[str], say: Say) -> None:
        """Start those of these systems that are ours, side by side; returns when all answer.

        Called from the main thread, which alone may spawn. Raises children.ServiceFailed.
        """
        own = [self.servers[system] for system in systems if system in self.servers]
        pool = ThreadPoolExecutor(max(1, len(own)))
        try:
            preparing: dict[Future[None], Server] = {pool.submit(server.prepare, say): server for server in own}
            waiting: list[Future[None]] = []
            while preparing:
                for done in wait(preparing, return_when="FIRST_COMPLETED").done:
                    server = preparing.pop(done)
                    done.result()
                    server.spawn()
                    waiting.append(pool.submit(_ready, server, say))
            for each in waiting:
                each.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C must not wait for a download
        self.publish()

    def check(self, killed: Container[str] = ()) -> None:
        """Raises children.ServiceFailed if a server of ours has ended by itself. killed: they come back"""
        for system, server in self.servers.items():
            if system not in killed and server.child is not None and not server.child.alive:
                raise server.child.failure(f"ended with exit status {server.child.process.returncode}")

    def publish(self) -> None:
        """Put the addresses of our own servers into the environment."""
        addresses = {system: server.address for system, server in self.servers.items() if server.child}
        if "kafka" in addresses:
            self.env["KAFKA_BOOTSTRAP_SERVERS"] = addresses["kafka"]["bootstrap"]
        if "postgres" in addresses:
            self.env["DATABASE_URL"] = addresses["postgres"]["dsn"]
        if "redis" in addresses:
            self.env["REDIS_URL"] = addresses["redis"]["url"]
        if "bigquery" in addresses:
            self.env["BIGQUERY_PROJECT_ID"] = addresses["bigquery"]["project"]
            self.env["BIGQUERY_EMULATOR_HOST"] = addresses["bigquery"]["rest"]
            self.env["BIGQUERY_EMULATOR_GRPC_HOST"] = addresses["bigquery"]["grpc"]


def _ready(server: Server, say: Say) -> None:
    server.wait_ready()
    say(f"{server.name} is up")
