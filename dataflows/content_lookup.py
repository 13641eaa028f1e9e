"""The content table beside the stream: a batch goes on when every content of it is known, or known to be unknown."""

from zlib import crc32

import numpy as np

from engagement.enrich import Contents, EnrichedEvents, enrich
from engagement.parse import ParsedEvents
from sources.postgres_lookup import PostgresLookup

TOLD_PER_BATCH_MAX = 2_000  # a new process tells the reader of every content: some with each batch


class ContentLookup:
    """Lives on the worker's thread; only PostgresLookup's own thread does I/O.

    partitions  of the topic: each content's fields are kept for the reader by one Kafka partition, by CRC-32 of its id
    """

    def __init__(self, table: PostgresLookup, partitions: int) -> None:
        self._contents = Contents()
        self._table = table
        self._partitions = partitions
        self._told: dict[int, int] = {}  # Kafka partition -> rows of `contents` below this number were told
        self._teller = np.zeros(0, np.int64)  # the Kafka partition that tells of a row, by row number

    def ready(self, batch: ParsedEvents) -> bool:
        """Whether every content id was looked up; asks for those that were not. Never blocks."""
        for answer in self._table.answers():
            if answer.complete:
                self._contents.clear_absent()
            self._contents.put_columns(answer.rows)
            self._contents.mark_absent(answer.absent)
        batch.content_rows = self._contents.rows_of(batch.content_ids)  # once for all who need them
        unknown = np.flatnonzero(batch.content_rows == Contents.UNKNOWN)
        missing = self._contents.missing(batch.content_ids[at] for at in unknown.tolist())
        if missing:
            self._table.ask(missing)
        return not missing

    def enrich(self, batch: ParsedEvents) -> EnrichedEvents:
        """Add the content's fields, and the rows that the reader of this Kafka partition has not been told yet."""
        return enrich(batch, self._contents, self._news(batch.span.partition.partition))

    def _news(self, partition: int) -> list[int]:
        ids = self._contents.rows.ids
        told = self._told.get(partition, 1)  # row 0 is no content
        until = self._told[partition] = min(len(ids), told + TOLD_PER_BATCH_MAX)
        if until > len(self._teller):
            numbers = [crc32(each.encode()) % self._partitions for each in ids[len(self._teller) :]]
            self._teller = np.concatenate([self._teller, np.array(numbers, np.int64)])
        news: list[int] = (told + np.flatnonzero(self._teller[told:until] == partition)).tolist()
        return news
