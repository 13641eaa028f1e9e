"""One audit from the first look to the report.

The order of the looks keeps what is on its way from being called missing: a snapshot of PostgreSQL; until the capture
has passed it; the sinks' positions; the end of the topic; and only then what the sinks hold.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np

from engagement.enrich import ContentRow
from engagement.parse import AHEAD_MS_MAX
from operations.audit.bigquery import BigQueryRows, TableRows, judged
from operations.audit.comparison import (
    EXPIRED,
    Delivery,
    Lacking,
    compare_delivery,
    compare_letters,
    compare_with_postgres,
)
from operations.audit.fingerprints import prints_of
from operations.audit.partner import partner_rows
from operations.audit.postgres import EventsTable
from operations.audit.problem import CouldNotLook, looking_at
from operations.audit.report import Findings, Report, Sums
from operations.audit.scan import FOR, Letters, Range, Scanned
from operations.audit.spool import Spool, integer_keys, rows_of
from operations.audit.topic import EventsTopic
from operations.letters import read_letters
from settings import Settings
from sinks.bigquery_client import BigQueryTable
from sources.kafka_topics import describe

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
ALL: Final = Range(0, 9_000_000_000_000_000)
WAIT_S: Final = 10.0
IDS_ASKED: Final = 10_000

Progress = Callable[[str, int, int], None]  # (what is read, rows so far, of about how many; 0: nobody knows)


def silent(stage: str, done: int, of: int) -> None:
    """Shows nothing."""


@dataclass
class Audit:
    """What to look at, and how.

    sinks        of redis, bigquery, partner, dead_letters
    partner_ids  what the partner holds, as `partner.partner_rows` reads it; None: its position is believed
    bigquery     None: the table that the settings name
    wait_s       for the capture to pass the snapshot of PostgreSQL
    """

    settings: Settings
    wanted: Range = ALL
    sinks: Sequence[str] = ()
    partner_ids: Path | None = None
    bigquery: BigQueryRows | None = None
    wait_s: float = WAIT_S
    progress: Progress = silent
    findings: Findings = field(default_factory=Findings)
    notes: list[str] = field(default_factory=list)
    lacking: Lacking = field(default_factory=Lacking)

    def run(self) -> Report:
        """Look, compare, report. Raises CouldNotLook."""
        with tempfile.TemporaryDirectory(prefix="audit-") as folder:
            return self._run(Path(folder))

    def _run(self, folder: Path) -> Report:
        settings = self.settings
        sinks = self.sinks or settings.sinks
        with looking_at("Kafka"):
            topic = EventsTopic(settings.kafka, settings.kafka_topic_engagement_events)
            begins = topic.begins()
        with looking_at("PostgreSQL"):
            table = EventsTable(settings.postgres, settings.cdc_slot)
            contents = {row[0]: ContentRow._make(row) for row in table.contents()}
            captured = table.captured(self.wait_s)
        with looking_at("Kafka"):
            positions = {sink: topic.positions(f"{settings.kafka_consumer_group}.{sink}") for sink in sinks}
            starts, ends = topic.starts(self.wanted.begin_us // 1000 - AHEAD_MS_MAX), topic.ends()
            border_us = self._retained_us(topic, begins)
        with looking_at("PostgreSQL"):
            rows = self._table_rows(table, folder, border_us)
            table.close()
        with looking_at("Kafka"):
            scanned = self._scan(topic, starts, ends, folder)
            self._search(topic, begins, starts, rows, scanned)
            letters = self._letters(topic, folder)
        with looking_at("PostgreSQL"):
            sums = [self._postgres(table, rows, scanned, behind=captured.behind_bytes)]
        stale_lengths: set[str] = set()
        for sink in [sink for sink in sinks if sink in FOR]:
            held = self._held(sink, folder, contents, (topic.topic.name, topic.topic.topic_id), stale_lengths)
            delivery = Delivery(sink, FOR[sink], positions[sink], held, placed=sink == "bigquery")
            sums.append(compare_delivery(delivery, rows, scanned, letters, self.findings, self.lacking))
        if "dead_letters" in sinks:
            not_due = compare_letters(scanned, letters, positions["dead_letters"], starts, self.findings)
            total = len(scanned.rejected)
            missing = sum(f.count for f in self.findings if (f.where, f.kind) == ("dead_letters", "missing"))
            sums.append(
                Sums("dead_letters", records=total, refused=total - not_due - missing, not_due=not_due, missing=missing)
            )
        return Report(_iso(self.wanted.begin_us), _iso(self.wanted.end_us), list(self.findings), sums, self.notes)

    def _table_rows(self, table: EventsTable, folder: Path, border_us: int) -> Spool:
        spool, expected = Spool(folder, "postgres"), table.count(self.wanted.begin_us, self.wanted.end_us)
        for batch in table.rows(self.wanted.begin_us, self.wanted.end_us):
            columns = [row for _, row in batch]
            old = np.array([row[3] for row in columns], np.int64) < border_us
            keys = integer_keys(np.array([event_id for event_id, _ in batch], np.int64))
            spool.append(rows_of(keys, prints_of(columns), flags=np.where(old, EXPIRED, 0)))
            self.progress("PostgreSQL", len(spool), expected)
        return spool

    def _scan(self, topic: EventsTopic, starts: dict[int, int], ends: dict[int, int], folder: Path) -> Scanned:
        scanned = Scanned.empty(folder)
        total = sum(max(0, ends[partition] - starts[partition]) for partition in topic.partitions)
        read = 0
        for partition in topic.partitions:
            for records in topic.records(partition, starts[partition], ends[partition]):
                scanned.take(records, self.wanted)
                read += len(records.offsets)
                self.progress("Kafka", read, total)
        return scanned

    def _search(
        self, topic: EventsTopic, begins: dict[int, int], starts: dict[int, int], rows: Spool, scanned: Scanned
    ) -> None:
        """Rows that were not found may have come much earlier, with an event time far ahead: look before the scan."""
        earlier = {p: begins[p] for p in topic.partitions if begins[p] < starts[p]}
        if not earlier:
            return
        absent = scanned.absent(rows)
        if not len(absent):
            return
        for partition, begin in earlier.items():
            for records in topic.records(partition, begin, starts[partition]):
                scanned.search(records, self.wanted, absent)
                self.progress("Kafka, before the range", 0, 0)

    def _letters(self, topic: EventsTopic, folder: Path) -> Letters:
        name = self.settings.kafka_topic_dead_letters
        found = describe(topic.admin, name)
        if found is None:
            raise CouldNotLook(f"Could not look into Kafka: it has no topic {name} (KAFKA_TOPIC_DEAD_LETTERS)")
        return Letters.read(folder, read_letters(self.settings.kafka, topic.admin, found), topic.topic.name)

    def _postgres(self, table: EventsTable, rows: Spool, scanned: Scanned, behind: int | None) -> Sums:
        if behind is None:
            self.notes.append(
                f"PostgreSQL has no replication slot {self.settings.cdc_slot}: every row is taken as captured."
            )
        elif behind:
            self.notes.append(
                f"The capture is {behind:,} bytes of log behind: rows that Kafka lacks are not judged yet."
            )
        not_due, ids, texts = compare_with_postgres(
            rows, scanned, self.findings, behind=bool(behind), lacking=self.lacking
        )
        self._strangers(table, ids, texts, rows)
        missing = sum(each.count for each in self.findings if (each.where, each.kind) == ("kafka", "missing"))
        sums = Sums("kafka", records=len(rows), delivered=len(rows) - not_due - missing, not_due=not_due)
        sums.missing = missing
        return sums

    def _strangers(self, table: EventsTable, ids: list[int], texts: list[str], rows: Spool) -> None:
        """Events that Kafka has and the snapshot has not: newer rows, other producers, or what should not be there.

        An integer id between the lowest and the highest of the range's rows can only come from the table: a row that
        was deleted, or one that never was. All others come from other producers."""
        known: set[int] = set()
        for first in range(0, len(ids), IDS_ASKED):
            known |= table.known_now(ids[first : first + IDS_ASKED])
        low, high = table.lowest, table.highest
        strange = [each for each in ids if each not in known]
        inside = [str(each) for each in strange if low is not None and high is not None and low <= each <= high]
        self.findings.add("kafka", "unexpected", inside)
        outside = [str(each) for each in strange if low is None or high is None or not low <= each <= high]
        self.findings.add("kafka", "from elsewhere", [*outside, *texts])

    def _held(
        self,
        sink: str,
        folder: Path,
        contents: dict[str, ContentRow],
        topic: tuple[str, str],
        stale_lengths: set[str],
    ) -> Spool | None:
        """What a sink holds; None where nobody can look."""
        spool = Spool(folder, f"held-{sink}")
        if sink == "bigquery":
            with looking_at("BigQuery"):
                source = self.bigquery or TableRows(BigQueryTable(**self.settings.bigquery))
                for batch in source.rows(self.wanted.begin_us, self.wanted.end_us):
                    spool.append(*judged(batch, contents, topic, stale_lengths))
                    self.progress("BigQuery", len(spool), 0)
            return spool
        if self.partner_ids is None:
            self.notes.append("The partner cannot be looked into without --partner-ids: its position is believed.")
            return None
        for rows, named in partner_rows(self.partner_ids, self.wanted):
            spool.append(rows, named)
            self.progress("partner", len(spool), 0)
        return spool

    def _retained_us(self, topic: EventsTopic, begins: dict[int, int]) -> int:
        """Rows with an event time before this may have left the topic by age; below all times where it is whole."""
        cut = [partition for partition, begin in begins.items() if begin > 0]
        if not cut:
            return ALL.begin_us - 2**40
        oldest = max(topic.first_ms(partition, begins[partition]) for partition in cut)
        border_us = (oldest + AHEAD_MS_MAX) * 1000
        if border_us > self.wanted.begin_us:
            self.notes.append(
                f"Kafka's retention has removed records: rows with an event time before {_iso(border_us)} that Kafka "
                "no longer has are compared with the sinks directly."
            )
        return border_us


def audit(
    settings: Settings,
    *,
    begin: datetime | None = None,
    end: datetime | None = None,
    sinks: Sequence[str] = (),
    partner_ids: Path | None = None,
    bigquery: BigQueryRows | None = None,
    wait_s: float = WAIT_S,
    progress: Progress = silent,
) -> Report:
    """Compare everything with an event time in [begin, end), by default of all times. Raises CouldNotLook."""
    wanted = Range(ALL.begin_us if begin is None else _us(begin), ALL.end_us if end is None else _us(end))
    return Audit(settings, wanted, sinks, partner_ids, bigquery, wait_s, progress).run()


def _us(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def _iso(us: int) -> str:
    """For people; the ends of all times by name."""
    if us <= ALL.begin_us:
        return "the beginning"
    if us >= ALL.end_us:
        return "now"
    return (EPOCH + timedelta(microseconds=us)).isoformat().replace("+00:00", "Z")


def default_range(now_s: float | None = None) -> Range:
    """The last hour, less the minute in which events are still on their way."""
    end_s = int(time.time() if now_s is None else now_s) // 60 * 60 - 60
    return Range((end_s - 3600) * 1_000_000, end_s * 1_000_000)
