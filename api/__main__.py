"""python -m api: serve the API on API_PORT."""

import signal
import sys

import uvicorn

from api.app import create_app
from api.queries import TotalsReader
from logs import configure_logging
from settings import Settings
from sinks.redis_client import connect
from sinks.redis_layout import Group
from sinks.redis_status import StatusBoard


def main() -> None:
    """Serve until SIGTERM; a request under way gets five seconds."""
    settings = Settings.from_env("redis")
    configure_logging(settings.log_level, "api")
    client = connect(settings.redis, settings.redis_cluster_nodes)
    layout = Group(
        settings.kafka_consumer_group,
        settings.kafka_topic_engagement_events,
        settings.redis_aggregation_window_minutes,
    )
    app = create_app(
        TotalsReader(client, layout, lateness_seconds=settings.allowed_lateness_seconds),
        StatusBoard(client, settings.kafka_consumer_group),
        token=settings.api_token.get_secret_value() if settings.api_token else None,
    )
    # uvicorn ends its work at a signal, then raises the signal again: this is what it meets.
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: sys.exit(0))
    uvicorn.run(
        app,
        host="0.0.0.0",
        port=settings.api_port,
        log_config=None,
        access_log=False,  # api/request_log.py says more, and less of the caller
        timeout_graceful_shutdown=5,
    )


if __name__ == "__main__":
    main()
