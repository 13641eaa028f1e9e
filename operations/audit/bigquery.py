"""What BigQuery holds: its rows read as Arrow, and each row judged by itself."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
from google.cloud import bigquery
from google.cloud.bigquery.retry import DEFAULT_RETRY
from google.cloud.bigquery_storage_v1 import BigQueryReadClient

from engagement.enrich import ContentRow, percentage_hundredths
from operations.audit.scan import event_rows
from operations.audit.spool import Rows
from sinks import bigquery_tables
from sinks.bigquery_client import BigQueryTable
from sinks.bigquery_ledger import QUERY_SECONDS

READ: Final = (
    *("event_id", "content_id", "content_slug", "content_title", "content_type", "content_length_seconds"),
    *("user_id", "event_type", "event_ts", "duration_ms", "engagement_seconds", "engagement_percentage", "device"),
    *("raw_payload", "processed_at", "anomalies"),
    *("source_topic", "source_epoch", "kafka_partition", "kafka_offset", "kafka_timestamp"),
)
# flags of a row
FOREIGN: Final = 1  # no record of this topic is behind it: a backfill, or a topic that was recreated since
WRONG: Final = 2  # its computed columns do not follow from its own columns
STALE: Final = 4  # its content's row is another today
WITHOUT_COLUMNS: Final = 8  # only its id is known

# The client's own patience with a BigQuery that is away is ten minutes
_RETRY: Final = DEFAULT_RETRY.with_timeout(30.0)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class BigQueryRows(Protocol):
    """What the audit asks of BigQuery. Raises what the client library raises."""

    def rows(self, begin_us: int, end_us: int) -> Iterator[pa.RecordBatch]:
        """The rows whose event_ts lies in [begin, end), with the columns of READ, in any order."""

    def replace(self, rows: Sequence[Mapping[str, Any]], begin_us: int, end_us: int) -> None:
        """Put these rows in the place of all rows of their events in [begin, end)."""


class TableRows:
    """The table itself: the Storage Read API at Google, REST pages at an emulator."""

    def __init__(self, table: BigQueryTable) -> None:
        self._table = table
        self._client = table.query_client()

    def rows(self, begin_us: int, end_us: int) -> Iterator[pa.RecordBatch]:
        """See BigQueryRows."""
        sql = f"SELECT {', '.join(READ)} FROM `{self._table.name}` WHERE event_ts >= @begin AND event_ts < @end"
        options = bigquery.QueryJobConfig(
            query_parameters=[_time("begin", begin_us), _time("end", end_us)], use_query_cache=False
        )
        found = self._job(sql, options).result(retry=_RETRY)
        reader = BigQueryReadClient(credentials=self._client._credentials) if self._table.rest is None else None  # type: ignore[no-untyped-call]
        yield from found.to_arrow_iterable(bqstorage_client=reader)

    def replace(self, rows: Sequence[Mapping[str, Any]], begin_us: int, end_us: int) -> None:
        """See BigQueryRows. First the new rows, then without the old: whoever dies between leaves doubled events, which
        the next audit names, and the row that a sink's position names is there at every moment. A DML statement sees
        rows of the Storage Write API at once, but not inside a transaction of several statements."""
        now = datetime.now(UTC)
        columns = [
            (name, kind, mode == "REPEATED") for name, kind, mode in bigquery_tables.columns(bigquery_tables.ROWS)
        ]
        parameters, values = [], []
        for number, row in enumerate(rows):
            row = {**row, "ingest_timestamp": now}
            names = [f"v{number}_{at}" for at in range(len(columns))]
            values.append(f"({', '.join(f'@{name}' for name in names)})")
            for name, (column, kind, repeated) in zip(names, columns, strict=True):
                made = bigquery.ArrayQueryParameter if repeated else bigquery.ScalarQueryParameter
                parameters.append(made(name, kind, row[column]))
        listed = ", ".join(name for name, _, _ in columns)
        self._run(f"INSERT INTO `{self._table.name}` ({listed}) VALUES {', '.join(values)}", parameters)
        ids = sorted({str(row["event_id"]) for row in rows})
        self._run(
            f"DELETE FROM `{self._table.name}` WHERE event_ts >= @begin AND event_ts < @end "
            "AND event_id IN UNNEST(@ids) AND (ingest_timestamp IS NULL OR ingest_timestamp != @now)",
            [
                _time("begin", begin_us),
                _time("end", end_us),
                bigquery.ArrayQueryParameter("ids", "STRING", ids),
                bigquery.ScalarQueryParameter("now", "TIMESTAMP", now),
            ],
        )

    def _run(self, sql: str, parameters: list[Any]) -> None:
        options = bigquery.QueryJobConfig(query_parameters=parameters)
        self._job(sql, options).result(retry=_RETRY, timeout=QUERY_SECONDS)

    def _job(self, sql: str, options: bigquery.QueryJobConfig) -> Any:
        return self._client.query(sql, job_config=options, retry=_RETRY, job_retry=None)


def judged(
    batch: pa.RecordBatch, contents: Mapping[str, ContentRow], topic: tuple[str, str], stale_lengths: set[str]
) -> tuple[Rows, list[tuple[int, str]]]:
    """The rows of a batch as fingerprints. topic: (name, topic id)

    stale_lengths  takes the contents whose length was another when a row was written"""
    column: dict[str, list[Any]] = {name: batch.column(name).to_pylist() for name in READ if name not in _AS_NUMBERS}
    number = {name: _integers(batch.column(name)) for name in _AS_NUMBERS}
    times, durations, lengths = number["event_ts"], number["duration_ms"], number["content_length_seconds"]
    events = list(
        zip(
            column["content_id"],
            column["user_id"],
            column["event_type"],
            times.tolist(),
            [None if ms < 0 else ms for ms in durations.tolist()],
            column["device"],
            column["raw_payload"],
            strict=True,
        )
    )
    places = zip(column["source_topic"], column["source_epoch"], strict=True)
    own = np.array([each == topic for each in places], np.bool_)  # a batch may be empty
    flags = np.where(own & (number["kafka_offset"] >= 0), 0, FOREIGN)
    flags |= np.where(_follows(column, durations, lengths, number), 0, WRONG)
    flags |= np.where(_stale(column, lengths, contents, stale_lengths), STALE, 0)
    return event_rows(
        column["event_id"],
        events,
        flags,
        partitions=number["kafka_partition"],
        offsets=number["kafka_offset"],
        stamps=number["kafka_timestamp"] // 1000,
    )


_AS_NUMBERS: Final = (
    *("event_ts", "duration_ms", "content_length_seconds"),
    *("kafka_partition", "kafka_offset", "kafka_timestamp", "processed_at"),
)


def _integers(column: "pa.Array[Any]") -> Any:
    """int64, -1 for null; times in microseconds since 1970."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", tz=column.type.tz)).view(pa.int64())
    return column.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)


def _follows(column: Mapping[str, Sequence[Any]], durations: Any, lengths: Any, number: Mapping[str, Any]) -> Any:
    """Whether seconds, percentage, anomalies and processed_at follow from the row's own columns: bool [n]."""
    percentages = percentage_hundredths(durations, lengths)
    stamped = number["kafka_timestamp"] // 1_000_000 == number["processed_at"] // 1_000_000
    follows = stamped | (number["kafka_timestamp"] < 0)
    rows = zip(
        durations.tolist(),
        percentages.tolist(),
        column["engagement_seconds"],
        column["engagement_percentage"],
        column["anomalies"],
        column["event_type"],
        # every content has a slug: a row without one was written while PostgreSQL did not know the content
        [
            key is not None and slug is None
            for key, slug in zip(column["content_id"], column["content_slug"], strict=True)
        ],
        strict=True,
    )
    follows &= np.fromiter(
        (
            seconds == (None if ms < 0 else ms / 1000)
            and share == (None if hundredths < 0 else hundredths / 100)
            and list(names or ()) == _anomalies(kind, ms, hundredths, unknown)
            for ms, hundredths, seconds, share, names, kind, unknown in rows
        ),
        bool,
        len(durations),
    )
    return follows


def _anomalies(kind: str, duration_ms: int, hundredths: int, unknown: bool) -> list[str]:
    """What looks wrong about an event, worked out anew."""
    return [
        name
        for name, holds in (
            ("over_length", hundredths > 10_000),
            ("finish_too_early", kind == "finish" and 0 <= hundredths < 5_000),
            ("duration_missing", kind in ("pause", "finish") and duration_ms < 0),
            ("unknown_content", unknown),
        )
        if holds
    ]


def _stale(
    column: Mapping[str, Sequence[Any]], lengths: Any, contents: Mapping[str, ContentRow], stale_lengths: set[str]
) -> Any:
    """Whether the content's columns are other ones than today's: bool [n]."""
    stale = []
    rows = zip(
        column["content_id"],
        column["content_slug"],
        column["content_title"],
        column["content_type"],
        lengths.tolist(),
        strict=True,
    )
    for content_id, slug, title, kind, length in rows:
        today = contents.get(content_id)
        length_today = -1 if today is None or today.length_seconds is None else today.length_seconds
        fields = (None, None, None) if today is None else today[1:4]
        stale.append((slug, title, kind) != fields or length != length_today)
        if length != length_today and content_id is not None:
            stale_lengths.add(content_id)
    return np.array(stale, bool)


def _time(name: str, us: int) -> Any:
    low, high = 0, 253_402_300_799_000_000  # 1970 to 9999
    return bigquery.ScalarQueryParameter(name, "TIMESTAMP", _EPOCH + timedelta(microseconds=min(max(us, low), high)))
