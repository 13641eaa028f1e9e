"""The boards of one Kafka partition, written anew in Redis from its records."""

from functools import partial
from secrets import token_hex
from typing import Any

from engagement.parse import AHEAD_MS_MAX, parse
from engagement.totals import SCORE
from engagement.totals_state import stored_periods
from engagement.totals_update import PeriodUpdate, Update
from operations.audit.auditor import Audit
from operations.audit.boards import Bucket, PartitionCount, StoredBoards
from operations.audit.problem import looking_at
from settings import Settings
from sinks.redis import RedisSink
from sinks.redis_client import connect
from sinks.redis_layout import SUMMARY, SUMMARY_FIELD
from sources.positions import PartitionId, Span


def rebuild(settings: Settings, found: Audit, partition: int) -> None:
    """Claim the partition, which fences its flow, and write every judged bucket that differs at the stored position.

    Users and recent events stay as they are. A crash in between leaves buckets as they were, or right."""
    topic = found.topic.topic
    identity = PartitionId(topic.name, topic.topic_id, partition)
    window_minutes, lateness_s = settings.redis_aggregation_window_minutes, settings.allowed_lateness_seconds
    sink = RedisSink(
        settings.redis,
        group=settings.kafka_consumer_group,
        partitions=[partition],
        window_minutes=window_minutes,
        stored_periods=partial(stored_periods, window_minutes=window_minutes, lateness_seconds=lateness_s),
        cluster_nodes=settings.redis_cluster_nodes,
    )
    owner = token_hex(16)
    with looking_at("Redis"):
        offset_next = sink.claim(identity, owner).offset_next or 0
        span = Span(identity, owner, offset_next, offset_next)
        loaded = sink.load(span)
        client = connect(settings.redis, settings.redis_cluster_nodes)
        stored = StoredBoards(client, sink.layout(topic.name), partition, topic.topic_id, found.judged)
        count = _counted(found, partition, offset_next)
        for bucket, rows in stored.buckets():
            period = _right(bucket, count)
            if _is_right(bucket, count, rows) or (not rows and stored.may_have_expired(count.newest_ms.get(bucket, 0))):
                continue
            _remove(client, stored, bucket, [member for member in rows if member.decode() not in set(period.members)])
            update = Update(
                span=span,
                periods=[period],
                contents=[],
                watermark_us=loaded.watermark_us,
                newest_ms=loaded.newest_ms,
                counters=loaded.counters,
                events=0,
                late=0,
            )
            sink.write([update])


def _counted(found: Audit, partition: int, offset_next: int) -> PartitionCount:
    count = PartitionCount(found.judged, offset_next, found.lengths)
    with looking_at("Kafka"):
        start = found.topic.starts(found.judged.since_s * 1000 - AHEAD_MS_MAX)[partition]
        for records in found.topic.records(partition, start, offset_next):
            count.take(parse(records))
    return count


def _right(bucket: Bucket, count: PartitionCount) -> PeriodUpdate:
    """The bucket as it must be."""
    rows = count.rows(bucket)
    scores = [int.from_bytes(row[8 * SCORE :], "little", signed=True) for row in rows.values()]
    return PeriodUpdate(
        kind=bucket[0],
        start_s=bucket[1],
        members=list(rows),
        values=b"".join(rows.values()),
        listed=list(zip(scores, rows, strict=True)),
        events=count.events(bucket),
        late=count.late_of(bucket),
    )


def _is_right(bucket: Bucket, count: PartitionCount, rows: dict[bytes, bytes]) -> bool:
    wanted = {content_id.encode(): row for content_id, row in count.rows(bucket).items()}
    events, late = count.events(bucket), count.late_of(bucket)
    if events or late:
        wanted[SUMMARY_FIELD] = SUMMARY.pack(events, late)
    return wanted == rows


def _remove(client: Any, stored: StoredBoards, bucket: Bucket, members: list[bytes]) -> None:
    """Take out what should not be there."""
    strange = [member for member in members if member != SUMMARY_FIELD]
    if strange:
        client.hdel(stored.keys.totals(*bucket), *strange)
        client.zrem(stored.keys.scores(*bucket), *strange)
