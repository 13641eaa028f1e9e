"""Whether a client's brokers answer: said in the log every ten seconds, and told while none does.

librdkafka would print each of its attempts to connect, twenty lines a second from each client (seen on 2.15).
"""

import time
from collections.abc import Callable
from typing import Any

import structlog
from confluent_kafka import KafkaError

SAID_EVERY_S = 10.0
AWAY_S = 15.0  # while no broker answers, librdkafka says so every ten seconds
QUIET = {"log_level": 2}  # only what is critical; KAFKA_CONFIG_LOG_LEVEL may say otherwise

log = structlog.get_logger()


class Brokers:
    """The `error_cb` of one client; it is called on the thread that polls.

    clock  seconds, monotonic
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, **fields: Any) -> None:
        self._clock, self._fields = clock, fields
        self._said_at: dict[int, float] = {}
        self._last = ""
        self._away_at: float | None = None

    def __call__(self, error: KafkaError) -> None:
        now = self._clock()
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._away_at = now
        else:
            self._last = error.str()
        if now - self._said_at.get(error.code(), -SAID_EVERY_S) >= SAID_EVERY_S:
            self._said_at[error.code()] = now
            log.warning("kafka_client_error", error=error.str(), **self._fields)

    def answered(self) -> None:
        """Records have come."""
        self._away_at = None

    def away(self) -> str:
        """Why no broker answers; "" where one does. May be called from any thread."""
        at = self._away_at
        return self._last or "no broker answers" if at is not None and self._clock() - at < AWAY_S else ""
