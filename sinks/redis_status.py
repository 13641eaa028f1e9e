"""What each process says of itself every second: a Redis hash with an expiry, best effort, read by API and demo."""

from collections.abc import Mapping
from typing import Any

from redis import Redis
from redis.cluster import RedisCluster

EXPIRY_S = 15  # a process that says nothing for this long is gone


class StatusBoard:
    """One hash per process, `{<group>/status}/<name>`, and the names beside them; one hash tag, so one cluster slot."""

    def __init__(self, client: "Redis | RedisCluster", group: str) -> None:
        self._client: Any = client
        self._tag = f"{{{group}/status}}"

    def write(self, name: str, values: Mapping[str, str]) -> None:
        """Replace what `name` said. Raises redis.RedisError."""
        pipeline = self._client.pipeline(transaction=False)
        pipeline.sadd(f"{self._tag}/names", name)
        pipeline.hset(f"{self._tag}/{name}", mapping=dict(values))
        pipeline.expire(f"{self._tag}/{name}", EXPIRY_S)
        pipeline.expire(f"{self._tag}/names", 3600)
        pipeline.execute()

    def read(self) -> dict[str, dict[str, str]]:
        """What every living process says, by name. Raises redis.RedisError."""
        names = sorted(_text(name) for name in self._client.smembers(f"{self._tag}/names"))
        said = {}
        for name in names:
            values = self._client.hgetall(f"{self._tag}/{name}")
            if values:
                said[name] = {_text(field): _text(value) for field, value in values.items()}
        return said


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
