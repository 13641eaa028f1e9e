"""The rolling board for the terminal, through the same queries as the API's."""

from collections.abc import Callable
from typing import Any

from api.queries import TotalsReader
from demo.facts import BoardRow
from settings import Settings
from sinks.redis_layout import Group

ROWS = 10


def layout(settings: Settings) -> Group:
    """Where this installation's totals lie in Redis."""
    return Group(
        settings.kafka_consumer_group,
        settings.kafka_topic_engagement_events,
        settings.redis_aggregation_window_minutes,
    )


def rolling_board(client: Any, settings: Settings) -> Callable[[float], list[BoardRow]]:
    """A function of now (seconds since 1970). It raises redis.RedisError."""
    reader = TotalsReader(client, layout(settings), lateness_seconds=settings.allowed_lateness_seconds)

    def read(now: float) -> list[BoardRow]:
        rows = reader.top_content("rolling", ROWS, int(now * 1e6))["rows"]
        return [
            BoardRow(
                row["rank"],
                row["content_title"],
                row["content_type"],
                row["score"],
                row["events"],
                row["unique_users"],
                row["minutes"],
            )
            for row in rows
        ]

    return read
