"""How Redis is reached, and what is waited out: shared by the sink, by what reads the totals, and by the status."""

from collections.abc import Callable
from typing import Any, TypeVar

import hiredis
import redis
import structlog
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry

import metrics
from sinks.repetition import repeated
from sources.positions import FlowStopped

log = structlog.get_logger()
T = TypeVar("T")

SINK = "redis"
CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 10.0
# Answers that waiting cannot cure; every other failure is waited out.
HOPELESS = (
    redis.AuthenticationError,
    redis.exceptions.AuthorizationError,
    redis.exceptions.NoPermissionError,
    redis.exceptions.ClusterCrossSlotError,
)
PASSING_ANSWERS = (
    "BUSY",
    "LOADING",
    "OOM",
    "READONLY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "NOREPLICAS",
    "UNBLOCK",
)
PASSING = (
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.TryAgainError,
    redis.exceptions.ClusterError,
)


def connect(url: str, cluster_nodes: str | None = None) -> Any:
    """A client for one Redis, or for a cluster when `cluster_nodes` (host:port, comma separated) names some of it.

    Answers are bytes. It tries once: whoever calls decides about waiting. A cluster is contacted here, and may raise.
    """
    options: dict[str, Any] = {
        "socket_timeout": ANSWER_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
    }
    if not cluster_nodes:
        return redis.Redis.from_url(url, command_packer=Packer(), **options)
    nodes = []
    for node in cluster_nodes.split(","):
        host, _, port = node.strip().rpartition(":")
        nodes.append(ClusterNode(host, int(port)))  # type: ignore[no-untyped-call]
    return redis.RedisCluster.from_url(url, startup_nodes=nodes, **options)


class Packer:
    """hiredis alone: redis-py's own looks at each argument before, a third of the client's time for a large write."""

    def pack(self, *arguments: Any) -> list[bytes]:
        """One command as bytes; its name may be two words."""
        return [hiredis.pack_command((*arguments[0].split(), *arguments[1:]))]


class Waiting:
    """Calls Redis until it answers.

    stopping, abandon  asked before each repetition: after SIGTERM `abandon()` ends the process
    last_error         what Redis said last, or what it is waited for; empty once it has answered
    """

    def __init__(
        self, url: str, cluster_nodes: str | None, stopping: Callable[[], bool], abandon: Callable[[], object]
    ) -> None:
        self._url, self._cluster_nodes = url, cluster_nodes
        self._stopping, self._abandon = stopping, abandon
        self._client: Any = None
        self.last_error = ""

    def call(self, doing: str, what: Callable[[Any], T]) -> T:
        """`what(client)`. Raises FlowStopped for an answer that waiting cannot change."""
        for attempt in repeated(passing, self._stopping, self._abandon):
            with attempt:
                try:
                    if self._client is None:
                        self._client = connect(self._url, self._cluster_nodes)
                    answer = what(self._client)
                    self.last_error = ""
                    return answer
                except (RedisError, RedisClusterException, OSError) as failure:
                    metrics.SINK_ERRORS.labels(SINK).inc()
                    self.last_error = f"cannot {doing}: {failure}"
                    if not passing(failure):
                        raise FlowStopped(
                            f"Redis refused to {doing}: {failure}. Correct REDIS_URL, the rights of its user, or "
                            "what else Redis names, then start again."
                        ) from failure
                    log.warning("waiting_for_redis", to=doing, error=str(failure), tries=attempt.num)
                    raise
        raise AssertionError("unreachable")


def passing(failure: Exception) -> bool:
    """Whether the same call may succeed later."""
    if isinstance(failure, HOPELESS):
        return False
    if isinstance(failure, redis.ResponseError) and not isinstance(failure, PASSING):
        # Of a command in a transaction redis-py says "Command # 3 (...) of pipeline caused error: NOREPLICAS ..."
        return str(failure).rpartition(" caused error: ")[2].startswith(PASSING_ANSWERS)
    return isinstance(failure, RedisError | RedisClusterException | OSError)
