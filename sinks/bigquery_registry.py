"""Who may append for a Kafka partition: register a stream, look again, finalise all others.

BigQuery cannot list write streams, so their names are written down before the first append. Once FinalizeWriteStream
has returned nothing enters a stream any more, neither from a process that was only frozen nor from a socket of a dead
one: only then does the largest offset in the table mean "all up to here".
"""

from collections.abc import Sequence
from typing import Any

import structlog
from google.api_core import exceptions as failures
from google.cloud.bigquery_storage_v1.types import WriteStream

from sinks.bigquery_client import CALL_SECONDS, BigQueryPatience, BigQueryTable
from sinks.bigquery_ledger import Entry, Ledger
from sources.positions import Fenced, PartitionId

log = structlog.get_logger()

PRUNE_ABOVE = 20  # registered streams of one Kafka partition


class StreamRegistry:
    """Claims Kafka partitions in BigQuery. writer: BigQueryWriteClient."""

    def __init__(self, writer: Any, ledger: Ledger, table: BigQueryTable, patience: BigQueryPatience) -> None:
        self._writer, self._ledger, self._table, self._patience = writer, ledger, table, patience

    def claim(self, partitions: Sequence[PartitionId]) -> dict[PartitionId, str]:
        """A fresh stream per partition (all of one topic); every other stream of theirs is finalised on return.

        Register first, then look again: a newcomer either registered before that look, and this process ends (Fenced),
        or it registered after, and then it sees this registration and finalises the stream."""
        streams = {partition: self._create() for partition in partitions}
        before = self._registered(partitions)
        mine = [
            Entry(
                partition.partition,
                1 + max((entry.claim for entry in before if entry.partition == partition.partition), default=0),
                stream,
            )
            for partition, stream in streams.items()
        ]
        self._register(partitions[0], mine)
        known = self._registered(partitions)
        self._check(known, mine)
        self._finalise_all(entry.stream for entry in known if entry < _owner(mine, entry.partition))
        self._prune(partitions, known, mine)
        log.info("bigquery_claimed", partitions=[entry.partition for entry in mine], claims=[e.claim for e in mine])
        return streams

    def finalise(self, stream: str, timeout: float = CALL_SECONDS) -> None:
        """Nothing enters the stream any more. One that is gone already needs nothing."""
        try:
            self._writer.finalize_write_stream(name=stream, retry=None, timeout=timeout)
        except failures.NotFound:
            log.info("bigquery_stream_gone", stream=stream)

    def _create(self) -> str:
        def create() -> str:
            wanted = WriteStream(type_=WriteStream.Type.COMMITTED)
            made = self._writer.create_write_stream(
                parent=self._table.path, write_stream=wanted, retry=None, timeout=CALL_SECONDS
            )
            return str(made.name)

        return self._patience.call("open a write stream", create)

    def _register(self, partition: PartitionId, entries: Sequence[Entry]) -> None:
        self._patience.call(
            "register write streams", self._ledger.register, partition.topic, partition.topic_id, entries
        )

    def _registered(self, partitions: Sequence[PartitionId]) -> list[Entry]:
        numbers = [partition.partition for partition in partitions]
        first = partitions[0]
        return self._patience.call(
            "read the registry of write streams", self._ledger.registered, first.topic, first.topic_id, numbers
        )

    def _finalise_all(self, streams: Any) -> None:
        for stream in sorted(set(streams)):
            self._patience.call("finalise the stream of a predecessor", self.finalise, stream)

    def _check(self, known: Sequence[Entry], mine: Sequence[Entry]) -> None:
        for entry in known:
            if entry > _owner(mine, entry.partition):
                raise Fenced(
                    f"Another process has claimed partition {entry.partition} for BigQuery (claim {entry.claim}): this "
                    "process ends. Run one process per partition."
                )

    def _prune(self, partitions: Sequence[PartitionId], known: Sequence[Entry], mine: Sequence[Entry]) -> None:
        """Now and then forget finalised streams; best effort, for DELETEs of several processes may collide."""
        for partition in partitions:
            if sum(entry.partition == partition.partition for entry in known) <= PRUNE_ABOVE:
                continue
            try:
                self._ledger.prune(partition, _owner(mine, partition.partition).claim)
            except Exception as failure:
                log.warning("bigquery_registry_not_pruned", partition=partition.partition, error=str(failure)[:200])


def _owner(mine: Sequence[Entry], partition: int) -> Entry:
    return next(entry for entry in mine if entry.partition == partition)
