"""python -m api: serve the API and the page on API_HOST and API_PORT."""

import gc
import os
import signal
import socket
import sys
from ipaddress import ip_address
from typing import NoReturn

import uvicorn
from pydantic import SecretStr

from api.access import Access, Role, hashed
from api.answers import Answers
from api.app import create_app
from api.kafka_positions import KafkaPositions
from api.observer import Observer
from api.read_process import in_processes, totals_over
from api.rejected import RejectedLetters
from logs import configure_logging
from settings import Settings, SettingsError
from sinks.redis_client import connect
from sinks.redis_status import StatusBoard

FRESH_S, STALE_S = 0.25, 0.75  # of boards, which change within a second of an event
POSITIONS_IN_KAFKA = ("bigquery", "partner", "dead_letters")


class Server(uvicorn.Server):
    """Ends the streams before it waits for requests under way: a stream never ends by itself."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.app.state.hub.close()  # type: ignore[union-attr]
        await super().shutdown(sockets)


def main() -> None:
    """Serve until SIGTERM; a request under way gets four seconds."""
    settings = Settings.from_env("redis")
    configure_logging(settings.log_level, "api")
    access = _access(settings)
    if access.open and not _is_loopback(settings.api_host):
        raise SettingsError(
            [
                f"API_HOST={settings.api_host}: can be reached from elsewhere, and no token is set: set API_TOKEN, or "
                "API_READ_TOKEN, or API_HOST=127.0.0.1"
            ]
        )
    listening = _listening(settings)
    readers = in_processes(settings)
    topic, group = settings.kafka_topic_engagement_events, settings.kafka_consumer_group
    # Without Kafka the API knows what the processes say, and no more.
    kafka = letters = None
    if settings.kafka_bootstrap_servers:
        kafka = KafkaPositions(settings.kafka, topic, group, POSITIONS_IN_KAFKA)
        letters = RejectedLetters(settings.kafka, settings.kafka_topic_dead_letters)
    sinks = settings.sinks if "sinks" in settings.model_fields_set else ()
    client = connect(settings.redis, settings.redis_cluster_nodes)
    app = create_app(
        readers,
        Observer(totals_over(client, settings), StatusBoard(client, group), kafka, sinks),
        access=access,
        letters=letters,
        rate_limit=settings.api_rate_limit,
        answers=Answers(FRESH_S, STALE_S),
        watches=True,
    )
    # uvicorn ends its work at a signal, then raises the signal again: this is what it meets.
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, _end)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # api/request_log.py says more, and less of the caller
        timeout_graceful_shutdown=4,
    )
    gc.freeze()  # what is there stays: a full collection took 0.1 s, in which nobody was answered
    Server(config).run([listening])


def _end(*_: object) -> NoReturn:
    """At once: the interpreter would wait for a thread that waits for Redis, up to ten seconds."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _listening(settings: Settings) -> socket.socket:
    """Before anything else: whoever finds the port taken must not have begun."""
    host, port = settings.api_host, settings.api_port
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as failure:
        raise SettingsError(
            [
                f"API_HOST={host}, API_PORT={port}: cannot be opened ({os.strerror(failure.errno or 0)}): stop the "
                "process that listens there, or name another port"
            ]
        ) from failure


def _access(settings: Settings) -> Access:
    """Only hashes are kept."""
    given: dict[Role, SecretStr | None] = {"operate": settings.api_token, "read": settings.api_read_token}
    return Access({role: hashed(token.get_secret_value()) for role, token in given.items() if token})


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    main()
