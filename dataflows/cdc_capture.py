"""PostgreSQL -> Kafka: the rows of engagement_events, each once, in commit order, keyed by content.

Runs as: python -m bytewax.run dataflows.cdc_capture
No recovery directory: the position lies in Kafka, written with the rows. A second capture of the same slot takes over.
Debezium may do this job instead: parse takes its envelopes from the same topic.
"""

import time
from functools import partial
from pathlib import Path
from tempfile import gettempdir

import bytewax.operators as op
from bytewax.dataflow import Dataflow

import metrics
from dataflows import lifecycle
from dataflows.progress_log import log_progress
from dataflows.slot_watch import SlotWatch
from dataflows.status import ProcessStatus, Progress
from dataflows.topic_watch import watch_topic
from logs import configure_logging
from settings import Settings
from sinks.capture_topic import CaptureTopic, capture_id
from sources.change_position import RECAPTURE, decoded
from sources.change_stream import CapturedTable, Changes
from sources.kafka_topics import admin_client, ask, describe
from sources.position_records import capture_key, read_last
from sources.positions import FlowStopped
from sources.postgres_changes import PostgresChanges
from sources.provisioned import PROVISION, warn_of_create_time
from sources.topic_ids import read_ids

ENGAGEMENT_EVENTS = CapturedTable(("public", "engagement_events"), key="content_id", order_by="id")


def build(changes: PostgresChanges, topic: CaptureTopic[Changes]) -> Dataflow:
    """Both ends must run in the same worker: the source confirms to PostgreSQL what the sink has acknowledged."""
    flow = Dataflow("cdc_capture")
    op.output("engagement_events", op.input("postgres", flow, changes), topic)
    return flow


def flow() -> Dataflow:
    """What `python -m bytewax.run dataflows.cdc_capture` runs: everything as the environment says."""
    settings = Settings.from_env("postgres", "kafka")
    configure_logging(settings.log_level, "capture")
    lifecycle.stopping.listen()
    try:
        return _connected(settings)
    except FlowStopped as why:
        lifecycle.end(why)


def _connected(settings: Settings) -> Dataflow:
    target, slot = settings.kafka_topic_engagement_events, settings.cdc_slot
    transactional_id = capture_id(settings.kafka_consumer_group, target, slot)
    lifecycle.back_off_if_fenced(Path(gettempdir()) / f"{transactional_id}.fenced")
    progress = Progress()
    topic: CaptureTopic[Changes] = CaptureTopic(
        settings.kafka,
        transactional_id,
        topic=target,
        topic_id=partial(_topic_id, settings),
        positions_topic=settings.topic_positions,
        position_key=capture_key(slot),
        read_positions=partial(
            read_last, settings.kafka, settings.topic_positions, lifecycle.waiting_for_kafka, captures=True
        ),
        stopping=lifecycle.stopping,
        abandon=lifecycle.abandon,
        ending=lifecycle.ending,
        remedy=RECAPTURE,
        written=partial(_written, progress, target),
    )
    changes = PostgresChanges(
        settings.postgres,
        ENGAGEMENT_EVENTS,
        slot=slot,
        publication=settings.cdc_publication,
        ledger=topic,
        stopping=lifecycle.stopping,
        abandon=lifecycle.abandon,
        ending=lifecycle.ending,
        ids_sent=partial(
            read_ids, settings.kafka, target, ENGAGEMENT_EVENTS.order_by, waiting=lifecycle.waiting_for_kafka
        ),
    )
    watch = SlotWatch(settings.postgres, slot)
    watch.start(lifecycle.stopping.wait)
    ProcessStatus(
        f"capture.{slot}",
        progress,
        list,
        {},
        ready=lambda: topic.acknowledged is not None,
        waiting=watch.trouble,
        sections={
            "capture": lambda: {
                **_progress(progress, topic),
                "lag_seconds": changes.lag_s(time.time()),
                **watch.values(),
            }
        },
    ).publish(settings)
    log_progress(partial(_progress, progress, topic), lifecycle.stopping.wait)
    return build(changes, topic)


def _progress(progress: Progress, topic: CaptureTopic[Changes]) -> dict[str, object]:
    """How far the capture is: all that committed before `lsn` is in Kafka."""
    stored = topic.acknowledged
    return {"lsn": decoded(stored).lsn if stored else None, "rows": progress.processed}


def _written(progress: Progress, target: str, rows: int) -> None:
    progress.processed += rows
    metrics.CAPTURED.labels(target).inc(rows)


def _topic_id(settings: Settings) -> str:
    """The id of the topic that rows go to, which is watched from now on. Raises FlowStopped where one is missing.

    No position is read here: an open transaction of the predecessor hides it until we have taken over."""
    admin, where = admin_client(settings.kafka), settings.kafka["bootstrap.servers"]
    topics = []
    for name in (settings.topic_positions, settings.kafka_topic_engagement_events):
        found = ask(f"look up topic {name} at {where}", partial(describe, admin, name), lifecycle.waiting_for_kafka)
        if found is None:
            raise FlowStopped(f"Kafka has no topic {name}: create it with: {PROVISION}")
        topics.append(found)
    warn_of_create_time(settings.kafka, topics[-1].name)
    watch_topic(settings.kafka, topics[-1])
    return topics[-1].topic_id
