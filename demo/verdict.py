"""The comparisons of a bounded run: Kafka against PostgreSQL; boards, BigQuery and partner against Kafka."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from demo import stores
from demo.board import layout
from demo.comparison import Check, Contents, compare, minutes_expected
from settings import Settings
from sinks.bigquery_client import BigQueryTable

BOARD_MINUTES = 60  # minutes are stored a little longer than this


def compare_everything(settings: Settings, sinks: tuple[str, ...], redis: Any, partner: Path | None) -> list[Check]:
    """One check per system. partner: its store; None: it is not ours to look into"""
    topic = settings.kafka_topic_engagement_events
    contents = stores.kafka_contents(settings.kafka, topic, settings.kafka_topic_dead_letters)
    rows = stores.postgres_ids(settings.postgres)
    checks = [compare("PostgreSQL -> Kafka, event ids", rows, _all_ids(contents))]
    if "redis" in sinks:
        checks.append(_boards(settings, contents, redis))
    if "bigquery" in sinks:
        table = BigQueryTable(**settings.bigquery)
        found = _attempt(lambda: stores.bigquery_ids(table.query_client(), table.name))
        checks.append(_delivered("Kafka -> BigQuery, event ids", contents.ids("bigquery"), found))
    if "partner" in sinks and partner is not None:
        found = _attempt(lambda: stores.partner_ids(partner))
        checks.append(_delivered("Kafka -> partner, event ids", contents.ids("partner"), found))
    return checks


def _all_ids(contents: Contents) -> Counter[str]:
    """Of every record that the capture wrote: rejected ones too, replayed ones not."""
    return Counter(entry.event_id for entry in contents.entries if entry.event_id and entry.target is None)


def _boards(settings: Settings, contents: Contents, redis: Any) -> Check:
    since = int(time.time()) // 60 - BOARD_MINUTES
    expected = minutes_expected(contents, lateness_s=settings.allowed_lateness_seconds, since_minute=since)
    found = stores.redis_minutes(redis, layout(settings), since_minute=since)
    return compare("Kafka -> boards, events per content and minute", expected, found)


def _attempt(read: Callable[[], Mapping[str, int]]) -> Mapping[str, int] | str:
    """What was read, or why it could not be."""
    try:
        return read()
    except Exception as error:  # whatever it is: it belongs into the table, as a difference
        return f"could not be read: {type(error).__name__}: {error}"


def _delivered(what: str, expected: Counter[str], found: Mapping[str, int] | str) -> Check:
    if isinstance(found, str):
        return Check(what, expected.total(), 0, unknown=found)
    return compare(what, expected, found)
