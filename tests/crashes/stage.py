"""The services of crash trials, kept up from trial to trial: Kafka, PostgreSQL, Valkey."""

import contextlib
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from confluent_kafka.admin import AdminClient

from demo.services import KafkaServer, PostgresServer, Server, ValkeyServer
from demo.services.server import Say, quietly
from tests.crashes.processes import Processes
from tests.crashes.proxy import Proxy


class ProxiedKafka(KafkaServer):
    """A broker that tells its clients to come through a proxy."""

    proxy: Proxy | None = None

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.proxy.port if self.proxy else self.ports[0]}"

    def prepare(self, say: Say = quietly) -> None:
        super().prepare(say)
        self.proxy = self.proxy or Proxy(self.ports[0])
        own = f"advertised.listeners=PLAINTEXT://127.0.0.1:{self.ports[0]}"
        config = self.root / "server.properties"
        config.write_text(config.read_text().replace(own, f"advertised.listeners=PLAINTEXT://{self.bootstrap}"))


@dataclass
class Stage:
    """What all trials of a run stand on. Main thread only, as children are spawned."""

    root: Path
    processes: Processes
    servers: dict[str, Server] = field(default_factory=dict)
    proxies: dict[str, Proxy] = field(default_factory=dict)
    coming_back: "dict[str, Future[None]]" = field(default_factory=dict)
    aof_sizes: list[tuple[float, dict[Path, int]]] = field(default_factory=list)

    def open(self) -> None:
        """Start everything."""
        self.root.chmod(0o711)
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="stage")
        kinds: dict[str, type[Server]] = {"kafka": ProxiedKafka, "postgres": PostgresServer, "redis": ValkeyServer}
        for name, kind in kinds.items():
            (self.root / name).mkdir(mode=0o711)
            self.servers[name] = kind(self.root / name)
            self.servers[name].prepare()
            self.servers[name].spawn()
        self.processes.open()
        for server in self.servers.values():
            server.wait_ready()
        self.proxies = {name: Proxy(self.servers[name].ports[0]) for name in ("postgres", "redis")}
        assert isinstance(self.kafka, ProxiedKafka)
        assert self.kafka.proxy is not None
        self.proxies["kafka"] = self.kafka.proxy

    @property
    def kafka(self) -> Any:
        return self.servers["kafka"]

    @property
    def bootstrap(self) -> str:
        return str(self.kafka.bootstrap)

    @property
    def properties(self) -> dict[str, str]:
        return {"bootstrap.servers": self.bootstrap}

    @cached_property
    def admin(self) -> AdminClient:
        return AdminClient({**self.properties, "log_level": 0})

    def dsn(self, database: str, *, proxied: bool = False) -> str:
        port = self.proxies["postgres"].port if proxied else self.servers["postgres"].ports[0]
        return f"postgresql://postgres@127.0.0.1:{port}/{database}"

    def redis_url(self, *, proxied: bool = False) -> str:
        port = self.proxies["redis"].port if proxied else self.servers["redis"].ports[0]
        return f"redis://127.0.0.1:{port}/0"

    def note_redis(self) -> None:
        """Remember how long Redis's append-only files are now, so that it can lose what it wrote since."""
        directory = self.servers["redis"].root / "data" / "appendonlydir"
        now = time.monotonic()
        if self.aof_sizes and now - self.aof_sizes[-1][0] < 0.1:
            return
        with contextlib.suppress(OSError):
            self.aof_sizes.append((now, {path: path.stat().st_size for path in directory.glob("*.incr.aof")}))
            del self.aof_sizes[:-20]

    def kill(self, name: str, *, lost_s: float = 0.0) -> None:
        """kill -9, and start it again; `ready` says when it answers. lost_s: Redis forgets its last seconds."""
        server = self.servers[name]
        server.kill()
        if lost_s:
            self._forget(lost_s)
        self._again(name)

    def restart(self, name: str) -> None:
        """A clean stop, and a start."""
        self.servers[name].stop()
        self._again(name)

    def ready(self, name: str) -> bool:
        """Whether the service answers again. One that could not start is started again: the processes of a PostgreSQL
        that was killed may outlive it for a moment."""
        future = self.coming_back.get(name)
        if future is not None and future.done():
            del self.coming_back[name]
            if future.exception() is not None:
                self._again(name)
        return name not in self.coming_back

    def close(self) -> None:
        self.processes.close()
        for server in self.servers.values():
            with contextlib.suppress(ProcessLookupError, RuntimeError):
                server.resume()
            server.stop(5)
        for proxy in self.proxies.values():
            proxy.close()
        self._pool.shutdown(wait=False)
        shutil.rmtree(self.root, ignore_errors=True)

    def _again(self, name: str) -> None:
        server = self.servers[name]
        server.spawn()
        self.coming_back[name] = self._pool.submit(server.wait_ready)

    def _forget(self, seconds: float) -> None:
        """As with appendfsync everysec after a power cut: what was written since is gone."""
        then = time.monotonic() - seconds
        earlier = [sizes for at, sizes in self.aof_sizes if at <= then] or [sizes for _, sizes in self.aof_sizes[:1]]
        for path, size in (earlier[-1] if earlier else {}).items():
            if path.exists() and size < path.stat().st_size:
                with path.open("r+b") as file:
                    file.truncate(size)
        self.aof_sizes.clear()
