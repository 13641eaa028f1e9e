"""The sinks that SINKS names, connected to what the environment says.

Each is imported where it is made: a process for Redis starts a second earlier without BigQuery's client.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from dataflows.lifecycle import abandon, stopping
from dataflows.totals import RedisTotals
from engagement.partner_body import partner_body, partner_events
from engagement.rows import arrow_rows, event_days
from engagement.totals_state import stored_periods
from settings import Settings
from sinks.fenced_commit import FencedCommit
from sources.passed_by_hand import PassedByHand
from sources.positions import PartitionId

if TYPE_CHECKING:
    from sinks.bigquery import BigQuerySink
    from sinks.dead_letters import DeadLettersSink
    from sinks.partner import PartnerSink
    from sinks.redis import RedisSink


@dataclass(frozen=True)
class Destinations:
    """sinks: name -> sink, in the order of SINKS; totals: how Redis counts, None without it."""

    sinks: dict[str, Any]
    totals: RedisTotals | None


def connect(settings: Settings, partitions: Sequence[int]) -> Destinations:
    """Make the sinks of a process that reads these Kafka partitions; none is contacted yet."""
    make: dict[str, Callable[[Settings], Any]] = {
        "redis": partial(_redis, partitions),
        "bigquery": _bigquery,
        "partner": _partner,
        "dead_letters": _dead_letters,
    }
    sinks: dict[str, Any] = {name: make[name](settings) for name in settings.sinks}
    redis = sinks.get("redis")
    window, lateness = settings.redis_aggregation_window_minutes, settings.allowed_lateness_seconds
    return Destinations(sinks, RedisTotals(redis.load, window, lateness) if redis else None)


def _redis(partitions: Sequence[int], settings: Settings) -> "RedisSink":
    from sinks.redis import RedisSink

    window, lateness = settings.redis_aggregation_window_minutes, settings.allowed_lateness_seconds
    return RedisSink(
        settings.redis,
        group=settings.kafka_consumer_group,
        partitions=partitions,
        window_minutes=window,
        stored_periods=partial(stored_periods, window_minutes=window, lateness_seconds=lateness),
        cluster_nodes=settings.redis_cluster_nodes,
        stopping=stopping,
        abandon=abandon,
    )


def _bigquery(settings: Settings) -> "BigQuerySink":
    from sinks.bigquery import BigQuerySink
    from sinks.bigquery_client import BigQueryTable

    return BigQuerySink(
        BigQueryTable(**settings.bigquery),
        rows=arrow_rows,
        day_of=event_days,
        position=_position(settings, "bigquery"),
        dead_letters=settings.kafka_topic_dead_letters,
        stopping=stopping,
        abandon=abandon,
        passed=_passed(settings, "bigquery"),
    )


def _partner(settings: Settings) -> "PartnerSink":
    from sinks.partner import PartnerSink

    token = settings.external_api_token
    return PartnerSink(
        settings.external_api_url or "",
        token.get_secret_value() if token else "",
        batch_size=settings.external_api_batch_size,
        timeout_s=settings.external_api_timeout_seconds,
        values=partner_events,
        body=partner_body,
        position=_position(settings, "partner"),
        dead_letters=settings.kafka_topic_dead_letters,
        stopping=stopping,
        abandon=abandon,
        passed=_passed(settings, "partner"),
    )


def _dead_letters(settings: Settings) -> "DeadLettersSink":
    from sinks.dead_letters import DeadLettersSink

    return DeadLettersSink(
        topic=settings.kafka_topic_dead_letters,
        position=_position(settings, "dead_letters"),
        stopping=stopping,
    )


def _position(settings: Settings, sink: str) -> Callable[[PartitionId], FencedCommit]:
    """The fenced position of a partition."""
    return partial(
        FencedCommit, settings.kafka, settings.kafka_consumer_group, sink, stopping=stopping, abandon=abandon
    )


def _passed(settings: Settings, sink: str) -> PassedByHand:
    return PassedByHand(settings.kafka, settings.topic_positions, settings.kafka_consumer_group, sink)
