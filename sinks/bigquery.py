"""BigQuery as a destination: every enriched event of a Kafka partition is one row, once, in offset order.

Each Kafka partition has a write stream of its own, and each row its offset in it. When write_batch returns, every row
is acknowledged, and a fenced Kafka commit follows: a lower bound. A start finalises the streams of predecessors and
then asks the table itself what landed behind that bound, so neither a lost process nor a frozen one adds a row twice.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from sinks.batches import Batch, Integers, SharedSink, by_partition, not_owned
from sinks.bigquery_client import SINK, BigQueryPatience, BigQueryTable
from sinks.bigquery_ledger import BigQueryLedger, Ledger
from sinks.bigquery_registry import StreamRegistry
from sinks.bigquery_rows import ToArrow
from sinks.bigquery_stream import ACK_SECONDS
from sinks.bigquery_writer import PartitionWriter, Surroundings
from sinks.fenced_commit import Position
from sources.positions import Claim, PartitionId

log = structlog.get_logger()

PROVE_SECONDS = 30.0  # while BigQuery is away: how often the partitions are proven to be still ours
CLOSE_SECONDS = 3.0


class BigQuerySink(SharedSink):
    """Exactly once per Kafka record. Nothing outlives write_batch but the position, which may lag.

    table        where the rows go (and, for tests and demo, the emulator's addresses)
    rows         (batch, indexes) -> their columns as Arrow; this sink adds source_topic, source_epoch (the topic id),
                 kafka_partition, kafka_offset, kafka_timestamp and ingest_timestamp
    day_of       batch -> event day of each of its rows, days since 1970 in UTC: what the table is partitioned by
    position     the fenced position of one Kafka partition (sinks.fenced_commit.FencedCommit)
    dead_letters topic that takes the rows BigQuery refuses for what they are
    stopping, abandon   after SIGTERM a waiting call ends the process by `abandon()`, nothing committed
    passed       (partition, offset) -> has an operator said to pass this row? Asked while the breaker is open
    clock        seconds since 1970
    Rows addressed to another sink are passed over. BigQuery away: waits without end, `last_error` says why.
    """

    name = SINK

    def __init__(
        self,
        table: BigQueryTable,
        *,
        rows: ToArrow,
        day_of: Callable[[Any], Integers],
        position: Callable[[PartitionId], Position],
        dead_letters: str,
        stopping: Callable[[], bool],
        abandon: Callable[[], object],
        passed: Callable[[PartitionId, int], bool] = lambda partition, offset: False,
        ledger: Ledger | None = None,
        writer: Any = None,
        clock: Callable[[], float] = time.time,
        wait_seconds_max: float = 5.0,
        ack_seconds: float = ACK_SECONDS,
    ) -> None:
        self._position = position
        self._writers: dict[int, tuple[int, PartitionWriter]] = {}  # by partition: (thread, writer)
        self._clock = clock
        self._patience = BigQueryPatience(stopping, abandon, self._while_waiting, wait_seconds_max)
        self._client = writer if writer is not None else table.write_client()
        known = ledger if ledger is not None else BigQueryLedger(table.query_client(), table, stopping=stopping)
        self._registry = StreamRegistry(self._client, known, table, self._patience)
        self._around = Surroundings(
            transport=self._client.transport,
            ledger=known,
            patience=self._patience,
            rows=rows,
            day_of=day_of,
            dead_letters=dead_letters,
            clock=clock,
            passed=passed,
            claim=self._registry.claim,
            ack_seconds=ack_seconds,
        )

    @property
    def last_error(self) -> str | None:
        """Why BigQuery takes nothing at the moment, in words; None while it does. For /health."""
        return self._patience.last_error

    @property
    def breaker_open(self) -> bool:
        return self._patience.breaker_open

    def claim(self, partition: PartitionId, owner: str) -> Claim:
        """Fence the predecessor's position and read it: a lower bound of what the table holds.

        Needs Kafka only. BigQuery is claimed with the first row, so that a start does not wait for it."""
        if replaced := self._writers.pop(partition.partition, None):
            replaced[1].rest()
            replaced[1].position.close()
        writer = PartitionWriter(self._around, partition, owner, self._position(partition))
        self._writers[partition.partition] = threading.get_ident(), writer
        return Claim(writer.offset_next)

    def write(self, batches: Sequence[Batch], /) -> None:
        """Deliver the batches, of one partition or several, each in offset order; several are under way at once."""
        work = [(self._claimed(joined[0]), joined) for joined in by_partition(batches).values()]
        for writer, joined in work:
            writer.begin(joined)
        needing = [writer for writer, _ in work if writer.needs_stream()]
        if needing:
            self._open_streams(needing[0].partition)
        for writer, _ in work:
            writer.send()
        for writer, _ in work:
            writer.settle()
        for writer, joined in work:
            writer.settle_position(idle=all(len(batch.offsets) == 0 for batch in joined))

    def close(self) -> None:
        """A clean end: finalise the streams, so that the successor finds nothing open. Best effort: it will anyway."""
        for writer in self._mine():
            stream = writer.stream_name
            writer.rest()
            writer.position.close()
            if stream is not None:
                try:
                    self._registry.finalise(stream, CLOSE_SECONDS)
                except Exception as failure:
                    log.info("bigquery_stream_left", stream=stream, error=str(failure)[:200])

    def _claimed(self, batch: Batch) -> PartitionWriter:
        claimed = self._writers.get(batch.span.partition.partition)
        if claimed is None or claimed[1].partition != batch.span.partition:
            raise not_owned(batch.span, SINK)
        return claimed[1]

    def _open_streams(self, asked: PartitionId) -> None:
        """Claim streams for all partitions of this thread that have none: a claim costs seconds, for one or for all."""
        without = [
            writer
            for writer in self._mine()
            if writer.stream_name is None
            and (writer.partition.topic, writer.partition.topic_id) == (asked.topic, asked.topic_id)
        ]
        for writer in without:
            self._prove(writer)
        streams = self._registry.claim([writer.partition for writer in without])
        for writer in without:
            writer.opened(streams[writer.partition])

    def _mine(self) -> list[PartitionWriter]:
        """The partitions that this thread reads: writers are used by one thread only."""
        return [writer for thread, writer in self._writers.values() if thread == threading.get_ident()]

    def _while_waiting(self) -> None:
        """Before a repetition: prove again that the partitions are ours, and keep their positions from expiring."""
        for writer in self._mine():
            self._prove(writer)

    def _prove(self, writer: PartitionWriter) -> None:
        if self._clock() - writer.proven_at >= PROVE_SECONDS:
            writer.prove()
