"""Puts right what an audit found, at exactly the system where it is wrong.

What a sink lacks is written to the topic again for that sink alone, with its event id, its Kafka timestamp and the
place of the record that it stands for: the next audit knows it for a repair, delivered or on its way, and sends nothing
twice.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, Final

import numpy as np
import psycopg

from engagement.enrich import Contents, enrich
from engagement.parse import HEADER_EVENT_ID, HEADER_FOR, HEADER_KAFKA_TIMESTAMP, parse
from engagement.rows import arrow_rows
from operations.audit.auditor import Audit
from operations.audit.bigquery import BigQueryRows, TableRows
from operations.audit.fingerprints import HEADER_REPAIRS
from operations.audit.postgres import CONNECT_S
from operations.audit.problem import looking_at
from operations.audit.rebuilding import rebuild
from operations.audit.scan import only
from operations.audit.topic import EventsTopic
from settings import Settings
from sinks.bigquery_client import BigQueryTable
from sinks.transactions import Record, Transactions
from sources.kafka_records import Records
from sources.pgoutput import Column
from sources.row_json import RowJson

RECORDS_PER_TRANSACTION: Final = 500
ROWS_PER_STATEMENT: Final = 100
Place = tuple[int, int]  # Kafka partition, offset


@dataclass
class Repair:
    """One repair. Whoever opens one later ends it: nothing is sent by two at a time.

    open it before the audit that it is to put right, so that no other repair can send behind that audit's back."""

    settings: Settings

    def open(self) -> None:
        """Take over. Raises CouldNotLook where no Kafka answers; once it has, waits for it."""
        settings = self.settings
        with looking_at("Kafka"):  # what follows waits for ever
            EventsTopic(settings.kafka, settings.kafka_topic_engagement_events)
        name = f"{settings.kafka_consumer_group}.audit.{settings.kafka_topic_engagement_events}"
        self._transactions = Transactions(settings.kafka, name)
        self._transactions.open()

    def run(self, found: Audit) -> Iterator[str]:
        """Put right what can be; yields a line for each thing done."""
        if found.lacking.ids:
            yield f"sent to Kafka: {self._capture(found.lacking.ids)} rows"
        for sink, places in found.lacking.places.items():
            if places:
                yield f"sent again for {sink} alone: {self._send(found.topic, sink, places)} events"
        wrong = found.lacking.wrong.get("bigquery", [])
        if wrong:
            yield f"corrected in BigQuery: {self._correct(found, wrong)} events"
        if found.lacking.wrong.get("partner"):
            yield "The partner cannot be corrected from here: doubled and altered events stay as they are."
        for partition in sorted(found.wrong_boards):
            rebuild(self.settings, found, partition)
            yield (
                f"rebuilt in Redis: the boards of Kafka partition {partition}. Its flow ends and comes back; where the "
                "difference returns, start it with an empty recovery directory."
            )

    def _capture(self, ids: Sequence[int]) -> int:
        """Rows that the capture has passed and Kafka lacks, as the capture writes them."""
        topic = self.settings.kafka_topic_engagement_events
        sent = 0
        for some in _chunks(ids):
            records = [Record(topic, key, value) for key, value in _row_records(self.settings.postgres, some)]
            self._transactions.run(records)
            sent += len(records)
        return sent

    def _send(self, topic: EventsTopic, sink: str, places: Sequence[Place]) -> int:
        sent = 0
        for chunk in _chunks(_records_at(topic, places)):
            records = [
                Record(topic.topic.name, key, value, self._headers(sink, where, event_id, stamp))
                for where, key, value, event_id, stamp in chunk
            ]
            self._transactions.run(records)
            sent += len(records)
        return sent

    @staticmethod
    def _headers(sink: str, where: Place, event_id: str, stamp: int) -> list[tuple[str, bytes | None]]:
        return [
            (HEADER_FOR, sink.encode()),
            (HEADER_EVENT_ID, event_id.encode()),
            (HEADER_KAFKA_TIMESTAMP, str(stamp).encode()),
            (HEADER_REPAIRS, f"{where[0]}/{where[1]}".encode()),
        ]

    def _correct(self, found: Audit, places: Sequence[Place]) -> int:
        """Each event's rows replaced by what its records say, with the content's row of today."""
        table: BigQueryRows = found.options.bigquery or TableRows(BigQueryTable(**self.settings.bigquery))
        wanted, done = found.options.wanted, 0
        contents = Contents()
        contents.put(found.contents.values())
        for chunk in _chunks(_rows_at(found.topic, places, contents), ROWS_PER_STATEMENT):
            with looking_at("BigQuery"):
                table.replace(chunk, wanted.begin_us, wanted.end_us)
            done += len({row["event_id"] for row in chunk})
        return done


def _rows_at(topic: EventsTopic, places: Sequence[Place], contents: Contents) -> Iterator[dict[str, Any]]:
    """The rows that BigQuery must hold of these records; those of one event follow each other."""
    found: list[dict[str, Any]] = []
    for records in _batches_at(topic, places):
        batch = enrich(parse(records), contents)
        rows = arrow_rows(batch, range(len(batch))).to_pylist()
        for row, offset, stamp in zip(rows, batch.offsets.tolist(), batch.timestamps_ms.tolist(), strict=True):
            row |= {
                "source_topic": topic.topic.name,
                "source_epoch": topic.topic.topic_id,
                "kafka_partition": batch.span.partition.partition,
                "kafka_offset": offset,
                "kafka_timestamp": np.datetime64(stamp, "ms").astype("M8[us]").item(),
            }
            found.append(row)
    yield from sorted(found, key=lambda row: str(row["event_id"]))


def _records_at(topic: EventsTopic, places: Sequence[Place]) -> Iterator[tuple[Place, Any, Any, str, int]]:
    """(place, key, value, event id, original Kafka timestamp) of the events that lie there."""
    for records in _batches_at(topic, places):
        parsed = parse(records)
        partition = records.span.partition.partition
        columns = zip(
            parsed.offsets.tolist(),
            parsed.keys,
            parsed.values,
            parsed.event_ids,
            parsed.timestamps_ms.tolist(),
            strict=True,
        )
        for offset, key, value, event_id, stamp in columns:
            yield (partition, offset), key, value, event_id, stamp


def _batches_at(topic: EventsTopic, places: Sequence[Place]) -> Iterator[Records]:
    """The records at these places: each stretch of a partition is read once."""
    for partition, some in groupby(sorted(set(places)), key=lambda place: place[0]):
        offsets = [offset for _, offset in some]
        for records in topic.records(partition, offsets[0], offsets[-1] + 1):
            chosen = np.isin(records.offsets, offsets)
            if chosen.any():
                yield only(records, chosen)


def _row_records(dsn: str, ids: Sequence[int]) -> list[tuple[bytes | None, bytes]]:
    """Key and JSON of these rows, in the order of their ids."""
    with (
        looking_at("PostgreSQL"),
        psycopg.connect(dsn, connect_timeout=CONNECT_S, options="-c timezone=UTC") as connection,
    ):
        cursor = connection.execute("SELECT * FROM engagement_events WHERE id = ANY(%s) ORDER BY id", [list(ids)])
        result = cursor.pgresult
        assert result is not None
        columns = [Column((result.fname(at) or b"").decode(), result.ftype(at)) for at in range(result.nfields)]
        row_json = RowJson(columns, "content_id")
        return [
            row_json.record([result.get_value(row, at) for at in range(result.nfields)])
            for row in range(result.ntuples)
        ]


def _chunks(things: Iterable[Any], size: int = RECORDS_PER_TRANSACTION) -> Iterator[list[Any]]:
    rest = iter(things)
    while chunk := list(islice(rest, size)):
        yield chunk
