"""Kafka -> parse -> enrich -> totals -> Redis; every enriched event -> BigQuery, partner; rejected -> dead letters.

    python -m bytewax.recovery DIR 1
    python -m bytewax.run dataflows.engagement -r DIR -s 5 -b 0

One process does what SINKS and KAFKA_PARTITIONS say: in production a deployment per sink, each with its own directory.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import bytewax.operators as op
import structlog
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.outputs import Sink
from bytewax.testing import TestingSink, TestingSource

import metrics
from dataflows.content_lookup import ContentLookup
from dataflows.destinations import connect
from dataflows.guarded import guarded
from dataflows.lifecycle import Execution, end, ending, own_recovery, stopping, waiting_for_kafka
from dataflows.memory import collect_rarely, share_memory
from dataflows.progress_log import log_progress
from dataflows.status import ProcessStatus, Progress
from dataflows.topic_watch import watch_topic
from dataflows.totals import RedisTotals, ten_minute_totals
from engagement.enrich import CONTENT_SCHEMA, EnrichedEvents
from engagement.parse import ParsedEvents, parse
from logs import configure_logging
from settings import Settings, ignored
from sources.kafka import KafkaSource
from sources.kafka_records import Records
from sources.kafka_topics import Topic
from sources.positions import FlowStopped
from sources.postgres_lookup import PostgresLookup
from sources.provisioned import check_provisioned

log = structlog.get_logger()


def build(
    events: Source[ParsedEvents],
    enrich: Callable[[ParsedEvents], EnrichedEvents],
    totals: RedisTotals | None,
    sinks: Mapping[str, Sink[Any]],
) -> Dataflow:
    """The graph. totals: how Redis counts, where `redis` is among the sinks; sinks: name -> where events end."""
    flow = Dataflow("engagement")
    enriched = op.map("enrich", op.input("events", flow, events), enrich)
    for name, sink in sinks.items():
        stored = ten_minute_totals("totals", enriched, totals) if name == "redis" and totals else enriched
        op.output(name, stored, sink)
    return flow


def flow() -> Dataflow:
    """What `python -m bytewax.run dataflows.engagement` runs: everything as the environment says."""
    settings = Settings.from_env("kafka", "postgres", sinks=True)
    configure_logging(settings.log_level, "engagement")
    share_memory()
    stopping.listen()
    try:
        return _connected(settings)
    except FlowStopped as why:
        end(why)


def graph() -> Dataflow:
    """The graph with every sink, connected to nothing: python -m bytewax.visualize "dataflows.engagement:graph()"."""

    def never(argument: Any) -> Any:
        raise AssertionError("this graph is for looking at")

    nowhere = {name: TestingSink[Any]([]) for name in ("redis", "bigquery", "partner", "dead_letters")}
    return build(TestingSource([]), never, RedisTotals(never, 10, 600), nowhere)


def _connected(settings: Settings) -> Dataflow:
    for name in ignored():
        log.warning("setting_without_effect", name=name)
    topic = check_provisioned(
        settings.kafka,
        settings.kafka_topic_engagement_events,
        settings.topic_positions,
        settings.kafka_consumer_group,
        settings.sinks,
        other_topics=[settings.kafka_topic_dead_letters],
        waiting=waiting_for_kafka,
    )
    partitions = _partitions(settings, topic)
    own_recovery({"topic": topic.name, "partitions": list(partitions), "sinks": sorted(settings.sinks)})
    progress = Progress()
    destinations = connect(settings, partitions)
    sinks = {name: guarded(sink, progress) for name, sink in destinations.sinks.items()}
    table = PostgresLookup(settings.postgres, _sql("content_all"), _sql("content_by_id"), CONTENT_SCHEMA, stopping)
    lookup = ContentLookup(table, topic.partitions)
    source = KafkaSource(
        settings.kafka,
        topic.name,
        topic.topic_id,
        partitions,
        prepare=partial(_counted, progress),
        ready=lookup.ready,
        destinations=list(sinks.values()),
        snapshot_destination="redis",
        stopping=stopping,
        ending=ending,
        waiting=waiting_for_kafka,
    )
    table.start()
    watch_topic(settings.kafka, topic)
    ProcessStatus(
        _name(settings, partitions),
        progress,
        source.status,
        destinations.sinks,
        ready=lambda: bool(source.status()),
        waiting=lambda: _waiting(table, source),
    ).publish(settings)
    log_progress(partial(_progress, progress), stopping.wait)
    built = build(source, lookup.enrich, destinations.totals, sinks)
    collect_rarely()
    return built


def _progress(progress: Progress) -> dict[str, Any]:
    """How far each sink is in each Kafka partition, for the log."""
    settled = sorted(dict(progress.settled).items())  # the worker goes on adding
    return {
        "events": progress.processed,
        "rejected": progress.rejected,
        "offset_next": {f"{sink} {partition}": offset for (sink, partition), offset in settled},
    }


def _counted(progress: Progress, records: Records) -> ParsedEvents:
    """Parse, and say so in the metrics."""
    parsed = parse(records)
    partition = {"topic": parsed.span.partition.topic, "partition": str(parsed.span.partition.partition)}
    if len(parsed):
        progress.processed += len(parsed)
        metrics.PROCESSED.labels(**partition).inc(len(parsed))
    for rejected in parsed.rejected:
        progress.rejected += 1
        metrics.REJECTED.labels(**partition, reason=rejected.reason).inc()
    if parsed.skipped:
        progress.skipped += parsed.skipped
        metrics.SKIPPED.labels(**partition).inc(parsed.skipped)
    return parsed


def _partitions(settings: Settings, topic: Topic) -> tuple[int, ...]:
    """The Kafka partitions of this process."""
    beyond = [partition for partition in settings.kafka_partitions if partition >= topic.partitions]
    if beyond:
        raise FlowStopped(
            f"KAFKA_PARTITIONS names {beyond}, but topic {topic.name} has partitions 0 to {topic.partitions - 1}."
        )
    return settings.kafka_partitions or tuple(range(topic.partitions))


def _name(settings: Settings, partitions: tuple[int, ...]) -> str:
    """This process among those of its group: `<sinks>.<partitions>`, as its recovery directory is called."""
    name = f"{'+'.join(settings.sinks)}.{partitions[0]}-{partitions[-1]}"
    execution = Execution.of_this_process()
    return name if execution.alone else f"{name}.{execution.index}"


def _waiting(table: PostgresLookup, source: KafkaSource[ParsedEvents]) -> str:
    """What is waited for besides destinations, in words; "" for nothing."""
    systems = {"PostgreSQL": table.error, "Kafka": source.away()}
    return "; ".join(f"{name}: {error}" for name, error in systems.items() if error)


def _sql(name: str) -> str:
    return (Path(__file__).parent.parent / "sql" / "postgres" / "queries" / f"{name}.sql").read_text(encoding="utf-8")
