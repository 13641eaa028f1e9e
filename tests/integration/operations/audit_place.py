"""One installation for the audit's tests: real PostgreSQL and Kafka; what the sinks hold is made by their own steps."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

import psycopg
import pyarrow as pa
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition

from dataflows.totals import RedisTotals
from engagement.enrich import Contents, EnrichedEvents, enrich
from engagement.parse import parse
from engagement.partner_body import partner_body, partner_events
from engagement.rows import arrow_rows
from engagement.totals_state import stored_periods
from operations.audit import Audit, Options, Report, audit
from operations.audit.auditor import us_of
from operations.audit.repair import Repair
from operations.audit.topic import EventsTopic
from settings import Settings
from sinks.bigquery_rows import _with_origin, rows_of
from sinks.fenced_commit import PositionMetadata, dead_letter
from sinks.redis import RedisSink
from sources.pgoutput import Column
from sources.positions import PartitionId
from sources.row_json import INT4, INT8, JSONB, TIMESTAMPTZ, RowJson

ROOT = Path(__file__).parents[3]
TEXT = 25
COLUMNS = ("id", "content_id", "user_id", "event_type", "event_ts", "duration_ms", "device", "raw_payload")
OIDS = (INT8, 2950, 2950, TEXT, TIMESTAMPTZ, INT4, TEXT, JSONB)
ROW_JSON = RowJson([Column(name, oid) for name, oid in zip(COLUMNS, OIDS, strict=True)], "content_id")
CONTENT = "123e4567-e89b-12d3-a456-426614174000"
SINKS = ("bigquery", "partner", "dead_letters")


class HeldRows:
    """A BigQuery whose rows a test can lose, double and alter."""

    def __init__(self) -> None:
        self.held: list[dict[str, Any]] = []

    def rows(self, begin_us: int, end_us: int) -> Iterator[pa.RecordBatch]:
        wanted = [row for row in self.held if begin_us <= us_of(row["event_ts"]) < end_us]
        yield from pa.Table.from_pylist(wanted, schema=self.schema).to_batches() if wanted else ()

    def replace(self, rows: Sequence[Mapping[str, Any]], begin_us: int, end_us: int) -> None:
        ids = {row["event_id"] for row in rows}
        kept = [r for r in self.held if r["event_id"] not in ids or not begin_us <= us_of(r["event_ts"]) < end_us]
        self.held = kept + [{**row, "ingest_timestamp": None} for row in rows]

    schema: pa.Schema


class AuditPlace:
    """Rows, records, letters, and what each sink holds of them."""

    def __init__(self, kafka: Any, postgres: str, name: str, folder: Path, redis_url: str = "") -> None:
        self.kafka, self.postgres, self.group, self.folder = kafka, postgres, name, folder
        self.redis_url = redis_url
        self.topic = kafka.topic(partitions=2, name=f"{name}-events")
        self.letters = kafka.topic(partitions=1, name=f"{name}-letters")
        self.positions = kafka.topic(partitions=1, name=f"{name}-events.positions", cleanup_policy="compact")
        with psycopg.connect(postgres, autocommit=True) as connection:
            for script in sorted((ROOT / "sql" / "postgres").glob("*.sql")):
                connection.execute(script.read_text(encoding="utf-8"))
        self.bigquery = HeldRows()
        self.partner: list[bytes] = []
        self.sinks = (*SINKS, "redis") if redis_url else SINKS
        self.moment = datetime.now(UTC) - timedelta(minutes=10)

    def environment(self, **more: str) -> dict[str, str]:
        return {
            "DATABASE_URL": self.postgres,
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap,
            "KAFKA_TOPIC": self.topic,
            "KAFKA_TOPIC_DEAD_LETTERS": self.letters,
            "KAFKA_CONSUMER_GROUP": self.group,
            "CDC_SLOT": self.group,
            "SINKS": ",".join(SINKS),
            "BIGQUERY_PROJECT_ID": "test",
            "REDIS_URL": self.redis_url,
            **more,
        }

    def settings(self, **more: str) -> Settings:
        return Settings.from_env("postgres", "kafka", env=self.environment(**more))

    def insert(self, count: int, **fields: Any) -> list[int]:
        """Rows in PostgreSQL; their ids."""
        values = {
            "content_id": CONTENT,
            "user_id": "0b5d5b5e-1111-4222-8333-444455556666",
            "event_type": "play",
            "event_ts": self.moment,
            "duration_ms": 900_000,
            "device": "wéb",
            "raw_payload": json.dumps({"a": [1, None], "b": "ü"}),
            **fields,
        }
        names = ", ".join(values)
        query = f"INSERT INTO engagement_events ({names}) VALUES ({', '.join(['%s'] * len(values))}) RETURNING id"
        with psycopg.connect(self.postgres) as connection:
            return [connection.execute(query, list(values.values())).fetchone()[0] for _ in range(count)]

    def capture(self, ids: Sequence[int], **headers: str) -> None:
        """Their records, as the capture writes them."""
        with psycopg.connect(self.postgres) as connection:
            connection.execute("SET TIME ZONE 'UTC'")
            names = ", ".join(f"{name}::text" for name in COLUMNS)
            found = {
                int(row[0]): row
                for row in connection.execute(f"SELECT {names} FROM engagement_events WHERE id = ANY(%s)", [list(ids)])
            }
        encoded = [[None if value is None else value.encode() for value in found[each]] for each in ids]
        self.produce([ROW_JSON.record(row) for row in encoded], list(headers.items()))

    def produce(self, records: Sequence[tuple[bytes | None, bytes | None]], headers: Sequence[Any] = ()) -> None:
        """In a transaction, so that markers lie between."""
        producer = Producer({**self.kafka.properties, "transactional.id": f"{self.topic}-{time.monotonic_ns()}"})
        producer.init_transactions(20)
        producer.begin_transaction()
        for number, (key, value) in enumerate(records):
            producer.produce(self.topic, value, key, partition=number % 2, headers=list(headers))
        producer.commit_transaction(20)

    def letter(self, partition: int, offset: int, value: bytes, sink: str, event_id: str | None = None) -> None:
        """A dead letter."""
        producer = Producer(self.kafka.properties)
        made = dead_letter(
            None,
            value,
            reason="a_reason",
            detail="what to fix",
            sink=sink,
            topic=self.topic,
            partition=partition,
            offset=offset,
            rejected_at_ms=int(time.time() * 1000),
            event_id=event_id,
        )
        producer.produce(self.letters, made.value, made.key, headers=made.headers)
        assert producer.flush(10) == 0

    def records(self) -> Iterator[EnrichedEvents]:
        """What the topic holds, enriched with the contents of today."""
        reader = EventsTopic(self.kafka.properties, self.topic)
        contents = self.contents()
        for partition, end in reader.ends().items():
            for records in reader.records(partition, 0, end):
                yield enrich(parse(records), contents)

    def deliver(self, sinks: Sequence[str] = SINKS, letters: bool = True) -> None:
        """Every sink takes what the topic holds now, and stands at its end."""
        for batch in self.records():
            chosen = list(range(len(batch)))
            rows = rows_of([batch], lambda each: each.event_ts_us // 86_400_000_000, "bigquery", 0)
            if "bigquery" in sinks and len(rows):
                table = _with_origin(arrow_rows(batch, rows.indexes.tolist()), rows, 0)
                self.bigquery.schema = table.schema
                self.bigquery.held += table.to_pylist()
            if "partner" in sinks:
                targets = batch.targets or [None] * len(batch)
                mine = [index for index in chosen if targets[index] in (None, "partner")]
                self.partner += [partner_body([event]) for event in partner_events(batch, mine)]
            if letters:
                for each in batch.rejected:
                    self.letter(batch.span.partition.partition, each.offset, each.value, "parse")
        self.settle(sinks)

    def count(self) -> None:
        """The boards, as a flow writes them: the topic as it is now."""
        sink = self.redis_sink()
        totals = RedisTotals(sink.load, 10, 600)
        owner = token_hex(8)
        reader = EventsTopic(self.kafka.properties, self.topic)
        for partition in reader.partitions:
            identity = PartitionId(self.topic, reader.topic.topic_id, partition)
            begin = sink.claim(identity, owner).offset_next or 0
            step = totals.step(None)
            for records in reader.records(partition, begin, reader.ends()[partition]):
                parsed = parse(records)
                parsed.span = replace(parsed.span, owner=owner)
                sink.write(step.on_batch([totals.sum_up(enrich(parsed, self.contents()))]))

    def redis_sink(self) -> RedisSink:
        stored = partial(stored_periods, window_minutes=10, lateness_seconds=600)
        return RedisSink(
            self.redis_url, group=self.group, partitions=range(2), window_minutes=10, stored_periods=stored
        )

    def contents(self) -> Contents:
        """As PostgreSQL has them today."""
        contents = Contents()
        with psycopg.connect(self.postgres) as connection:
            contents.put(connection.execute((ROOT / "sql/postgres/queries/content_all.sql").read_text()))
        return contents

    def settle(self, sinks: Sequence[str] = SINKS) -> None:
        """The sinks' positions are the ends of the topic."""
        ends = EventsTopic(self.kafka.properties, self.topic).ends()
        metadata = PositionMetadata(self.kafka.topic_id(self.topic), int(time.time() * 1000))
        for sink in sinks:
            places = [
                TopicPartition(self.topic, partition, end, json.dumps({"topic_id": metadata.topic_id, "at": 1}))
                for partition, end in ends.items()
            ]
            group = f"{self.group}.{sink}"
            asked = self.kafka.admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, places)])
            asked[group].result(20)

    def ids_file(self) -> Path:
        path = self.folder / "partner.jsonl"
        path.write_bytes(b"".join(line + b"\n" for line in self.partner))
        return path

    def audit(self, **options: Any) -> Report:
        known = {"sinks": self.sinks, "bigquery": self.bigquery, "partner_ids": self.ids_file(), "wait_s": 0}
        options = {**known, **options}
        return audit(self.settings(), **options)

    def repair(self) -> list[str]:
        """Audit and repair; what was done."""
        mending = Repair(self.settings())
        mending.open()
        looked = Audit(self.settings(), self.options())
        looked.run()
        return list(mending.run(looked))

    def options(self) -> Options:
        return Options(sinks=self.sinks, partner_ids=self.ids_file(), bigquery=self.bigquery, wait_s=0)


def found(report: Report) -> dict[tuple[str, str], list[str]]:
    """(where, kind) -> names, sorted."""
    return {(each.where, each.kind): sorted(each.names) for each in report.findings}
