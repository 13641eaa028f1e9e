"""What BigQuery's own tables say: which write streams were registered, and how far a Kafka partition has landed."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import structlog
from google.cloud import bigquery

from sinks.bigquery_client import CALL_SECONDS, Away, BigQueryTable
from sinks.bigquery_tables import day_column
from sources.positions import PartitionId

log = structlog.get_logger()

QUERY_SECONDS = 120.0
STEP_SECONDS = 5.0
LANDED_BYTES_MAX = 2 * 10**12  # of one question: some ten dollars; a day at 100,000 events a second is a tenth of it
DAY_RANGES_MAX = 100  # more are joined: a wider question has the same answer, it only reads more
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

REGISTER = """
INSERT INTO `{registry}` (source_topic, source_epoch, kafka_partition, claim, stream, claimed_at)
VALUES {values}
"""
REGISTERED = """
SELECT kafka_partition, claim, stream FROM `{registry}`
WHERE source_topic = @topic AND source_epoch = @epoch AND kafka_partition IN UNNEST(@partitions)
  AND STARTS_WITH(stream, @table)
"""
PRUNE = """
DELETE FROM `{registry}`
WHERE source_topic = @topic AND source_epoch = @epoch AND kafka_partition = @partition AND claim < @claim
  AND STARTS_WITH(stream, @table)
"""
LANDED = """
SELECT MAX(kafka_offset) AS newest, COUNTIF(kafka_offset = @named) AS named
FROM `{table}`
WHERE source_topic = @topic AND source_epoch = @epoch AND kafka_partition = @partition
  AND kafka_offset >= @offset_from AND ({days})
"""


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One registered stream. The greatest (claim, stream) of a Kafka partition owns it."""

    partition: int
    claim: int
    stream: str


@dataclass(frozen=True, slots=True)
class Landed:
    """newest  largest offset found, None: none; named_found: the row asked for by name is there"""

    newest: int | None
    named_found: bool


class Ledger(Protocol):
    """All methods raise what the client library raises: the caller knows how to wait."""

    def register(self, topic: str, topic_id: str, entries: Sequence[Entry]) -> None: ...
    def registered(self, topic: str, topic_id: str, partitions: Sequence[int]) -> list[Entry]: ...
    def prune(self, partition: PartitionId, claim: int) -> None: ...
    def landed(
        self, partition: PartitionId, offset_from: int, days: Iterable[int], named: int | None = None
    ) -> Landed: ...


class BigQueryLedger:
    """The ledger in SQL.

    client           google.cloud.bigquery.Client
    bytes_billed_max a question about landed rows that would read more is refused: 2-3 columns of a few days
    """

    def __init__(
        self,
        client: Any,
        table: BigQueryTable,
        bytes_billed_max: int = LANDED_BYTES_MAX,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._client, self._table, self._stopping = client, table, stopping
        self._bytes_max = bytes_billed_max
        self._day_column = day_column()
        self._registry = f"{table.project}.{table.dataset}._sink_streams"

    def register(self, topic: str, topic_id: str, entries: Sequence[Entry]) -> None:
        """Insert one row per stream. Twice, after a lost answer, does no harm."""
        parameters = [_text("topic", topic), _text("epoch", topic_id)]
        values = []
        for number, entry in enumerate(entries):
            values.append(f"(@topic, @epoch, @p{number}, @c{number}, @s{number}, CURRENT_TIMESTAMP())")
            parameters += [
                _integer(f"p{number}", entry.partition),
                _integer(f"c{number}", entry.claim),
                _text(f"s{number}", entry.stream),
            ]
        self._run(REGISTER.format(registry=self._registry, values=", ".join(values)), parameters)

    def registered(self, topic: str, topic_id: str, partitions: Sequence[int]) -> list[Entry]:
        rows = self._run(
            REGISTERED.format(registry=self._registry),
            [
                _text("topic", topic),
                _text("epoch", topic_id),
                bigquery.ArrayQueryParameter("partitions", "INT64", list(partitions)),
                _text("table", f"{self._table.path}/"),
            ],
        )
        return sorted(Entry(int(row.kafka_partition), int(row.claim), str(row.stream)) for row in rows)

    def prune(self, partition: PartitionId, claim: int) -> None:
        """Forget the streams below `claim`: all are finalised."""
        parameters = [*_where(partition), _integer("claim", claim), _text("table", f"{self._table.path}/")]
        self._run(PRUNE.format(registry=self._registry), parameters)

    def landed(self, partition: PartitionId, offset_from: int, days: Iterable[int], named: int | None = None) -> Landed:
        """The largest landed offset >= offset_from among the event days `days` (days since 1970).

        Only the days that occur in the batch in question are read, which bounds the cost whatever the table's size."""
        ranges = day_ranges(days)
        parameters = [
            *_where(partition),
            _integer("offset_from", offset_from),
            bigquery.ScalarQueryParameter("named", "INT64", named),
        ]
        conditions = []
        for number, (first, end) in enumerate(ranges):
            conditions.append(f"{self._day_column} >= @from{number} AND {self._day_column} < @to{number}")
            parameters += [_day(f"from{number}", first), _day(f"to{number}", end)]
        sql = LANDED.format(table=self._table.name, days=" OR ".join(f"({each})" for each in conditions))
        [row] = self._run(sql, parameters, bytes_max=self._bytes_max)
        return Landed(None if row.newest is None else int(row.newest), int(row.named or 0) > 0)

    def _run(self, sql: str, parameters: list[Any], bytes_max: int | None = None) -> list[Any]:
        """The rows of a statement, never from the cache: a stale answer would be a wrong one."""
        options = bigquery.QueryJobConfig(query_parameters=parameters, use_query_cache=False)
        if bytes_max is not None:
            options.maximum_bytes_billed = bytes_max
        job = self._client.query(sql, job_config=options, retry=None, timeout=CALL_SECONDS, job_retry=None)
        rows = self._answer(job)
        if job.errors:
            raise Away(f"query {job.job_id} ended with {job.errors}: its answer is not trusted")
        log.info("bigquery_queried", statement=sql.split()[0], bytes=job.total_bytes_processed, rows=len(rows))
        return rows

    def _answer(self, job: Any) -> list[Any]:
        """The rows of a running query, waited for in short steps: a stop request must not wait for a busy project."""
        waited = 0.0
        while True:
            try:
                return list(job.result(timeout=STEP_SECONDS, retry=None, job_retry=None))
            except TimeoutError as failure:
                waited += STEP_SECONDS
                if waited >= QUERY_SECONDS or self._stopping():
                    raise Away(f"no answer to query {job.job_id} in {waited:g} s") from failure


def day_ranges(days: Iterable[int], ranges_max: int = DAY_RANGES_MAX) -> list[tuple[int, int]]:
    """Days as ascending ranges [first, end); above `ranges_max` those with the smallest gaps are joined."""
    ranges: list[tuple[int, int]] = []
    for day in sorted(set(map(int, days))):
        if ranges and ranges[-1][1] == day:
            ranges[-1] = (ranges[-1][0], day + 1)
        else:
            ranges.append((day, day + 1))
    while len(ranges) > ranges_max:
        gaps = [ranges[i + 1][0] - ranges[i][1] for i in range(len(ranges) - 1)]
        at = gaps.index(min(gaps))
        ranges[at : at + 2] = [(ranges[at][0], ranges[at + 1][1])]
    return ranges


def _where(partition: PartitionId) -> list[Any]:
    return [
        _text("topic", partition.topic),
        _text("epoch", partition.topic_id),
        _integer("partition", partition.partition),
    ]


def _text(name: str, value: str) -> Any:
    return bigquery.ScalarQueryParameter(name, "STRING", value)


def _integer(name: str, value: int) -> Any:
    return bigquery.ScalarQueryParameter(name, "INT64", value)


def _day(name: str, day: int) -> Any:
    return bigquery.ScalarQueryParameter(name, "TIMESTAMP", EPOCH + timedelta(days=day))
