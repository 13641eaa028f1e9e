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
import numpy.typing as npt

from engagement.enrich import ContentRow
from engagement.parse import AHEAD_MS_MAX
from operations.audit.bigquery import FOREIGN, BigQueryRows, TableRows, judged
from operations.audit.boards import Boards, Judged
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
from operations.audit.spool import Rows, Spool, integer_keys, rows_of
from operations.audit.topic import EventsTopic
from operations.letters import read_letters
from settings import Settings
from sinks.bigquery_client import BigQueryTable
from sinks.redis_client import connect
from sinks.redis_layout import Group
from sources.change_stream import IDLE_POSITION_EVERY_S
from sources.kafka_topics import describe
from sources.provisioned import PROVISION

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
ALL: Final = Range(0, 9_000_000_000_000_000)
WAIT_S: Final = 2.5 * IDLE_POSITION_EVERY_S  # where nothing is captured the slot moves so seldom
IDS_ASKED: Final = 10_000

Progress = Callable[[str, int, int], None]  # (what is read, rows so far, of about how many; 0: nobody knows)


def silent(stage: str, done: int, of: int) -> None:
    """Shows nothing."""


@dataclass(frozen=True)
class Options:
    """What to look at, and how.

    wanted       the range of event time
    sinks        of redis, bigquery, partner, dead_letters; (): what SINKS names
    partner_ids  what the partner holds, as `partner.partner_rows` reads it; None: its position is believed
    bigquery     None: the table that the settings name
    wait_s       for the capture to pass the snapshot of PostgreSQL
    """

    wanted: Range = ALL
    sinks: Sequence[str] = ()
    partner_ids: Path | None = None
    bigquery: BigQueryRows | None = None
    wait_s: float = WAIT_S
    progress: Progress = silent


@dataclass
class Audit:
    """One run. `lacking` and `wrong_boards` are what a repair starts from."""

    settings: Settings
    options: Options = Options()
    findings: Findings = field(default_factory=Findings)
    notes: list[str] = field(default_factory=list)
    lacking: Lacking = field(default_factory=Lacking)
    wrong_boards: set[int] = field(default_factory=set)
    contents: dict[str, ContentRow] = field(default_factory=dict)

    def run(self) -> Report:
        """Look, compare, report. Raises CouldNotLook."""
        with looking_at("Kafka"):
            self.topic = EventsTopic(self.settings.kafka, self.settings.kafka_topic_engagement_events)
        with tempfile.TemporaryDirectory(prefix="audit-") as folder, looking_at("PostgreSQL"):
            table = EventsTable(self.settings.postgres, self.settings.cdc_slot)
            try:
                sums = self._sums(Path(folder), table)
            finally:
                table.close()
        wanted = self.options.wanted
        return Report(_iso(wanted.begin_us), _iso(wanted.end_us), list(self.findings), sums, self.notes)

    def _sums(self, folder: Path, table: EventsTable) -> list[Sums]:
        sinks = self.options.sinks or self.settings.sinks
        self.contents = {row[0]: ContentRow._make(row) for row in table.contents()}
        behind = self._behind(table)
        with looking_at("Kafka"):
            group = self.settings.kafka_consumer_group
            positions = {sink: self.topic.positions(f"{group}.{sink}") for sink in sinks if sink != "redis"}
            begins, ends = self.topic.begins(), self.topic.ends()
            for sink, known in positions.items():
                self._refuse_unknown(sink, [each for each in ends if begins[each] < ends[each] and each not in known])
            starts = self.topic.starts(self.options.wanted.begin_us // 1000 - AHEAD_MS_MAX)
            border_us = self._retained_us(begins)
        rows = self._rows(table, folder, border_us)
        boards = self._boards() if "redis" in sinks else None
        with looking_at("Kafka"):
            scanned = self._scan(starts, ends, boards, folder)
            scanned.whole = not any(begins.values()) and starts == begins
            self._search(begins, starts, rows, scanned)
            letters = self._letters(folder)
        if scanned.skipped:
            self.notes.append(f"{scanned.skipped:,} records are no events: Debezium updates and deletes, tombstones.")
        sums = [self._captured(table, rows, scanned, behind)]
        stale_lengths: set[str] = set()
        for sink in [each for each in sinks if each in FOR]:
            held = self._held(sink, folder, scanned, stale_lengths)
            delivery = Delivery(sink, FOR[sink], positions[sink], held, placed=sink == "bigquery")
            sums.append(compare_delivery(delivery, rows, scanned, letters, self.findings, self.lacking))
        if boards is not None:
            if boards.empty:
                self.notes.append(
                    f"Redis has counted nothing of Kafka partitions {boards.empty}, or has lost it: it is not due "
                    "until their flow has started."
                )
            sums.append(boards.settle(stale_lengths))
            self.wrong_boards = boards.differences.wrong
        if "dead_letters" in sinks:
            sums.append(compare_letters(scanned, letters, positions["dead_letters"], starts, self.findings))
        return sums

    def _refuse_unknown(self, sink: str, partitions: list[int]) -> None:
        """A flow does not start there either; to take it for the beginning would hide whatever the sink lost."""
        if partitions:
            raise CouldNotLook(
                f"Could not look into Kafka: sink {sink} has no position in partitions {partitions} of "
                f"{self.topic.topic.name}, so nobody knows what it has taken. Sinks get one from: {PROVISION}"
            )

    def _behind(self, table: EventsTable) -> bool:
        """Whether rows of the snapshot may still be on their way to Kafka."""
        captured = table.captured(self.options.wait_s)
        if captured.behind_bytes is None:
            slot = self.settings.cdc_slot
            self.notes.append(
                f"PostgreSQL has no replication slot {slot} that is of use: every row is taken as captured."
            )
        elif captured.behind_bytes:
            self.notes.append(
                f"The capture is {captured.behind_bytes:,} bytes of log behind: rows that Kafka lacks are not judged."
            )
        with looking_at("Kafka"):
            phase = self.topic.capture_phase(self.settings.topic_positions, self.settings.cdc_slot)
        if phase in ("creating", "snapshot"):
            self.notes.append(
                "The capture is sending the rows that were there before its slot (or will, at its next start): rows "
                "that Kafka lacks are not judged."
            )
            return True
        return bool(captured.behind_bytes)

    def _rows(self, table: EventsTable, folder: Path, border_us: int) -> Spool:
        wanted = self.options.wanted
        spool, expected = Spool(folder, "postgres"), table.count(wanted.begin_us, wanted.end_us)
        for batch in table.rows(wanted.begin_us, wanted.end_us):
            columns = [row for _, row in batch]
            old = np.array([row[3] for row in columns], np.int64) < border_us
            keys = integer_keys(np.array([event_id for event_id, _ in batch], np.int64))
            spool.append(rows_of(keys, prints_of(columns), flags=np.where(old, EXPIRED, 0)))
            self.options.progress("PostgreSQL", len(spool), expected)
        return spool

    def _boards(self) -> Boards:
        settings = self.settings
        window_minutes = settings.redis_aggregation_window_minutes
        self.judged = Judged.now(self.options.wanted, window_minutes, settings.allowed_lateness_seconds)
        with looking_at("Redis"):
            client = connect(settings.redis, settings.redis_cluster_nodes)
        layout = Group(settings.kafka_consumer_group, self.topic.topic.name, window_minutes)
        return Boards(client, layout, self.topic.topic.topic_id, self.judged, self.lengths, self.findings)

    @property
    def lengths(self) -> dict[str, int | None]:
        """Content -> seconds, today."""
        return {content_id: row.length_seconds for content_id, row in self.contents.items()}

    def _scan(self, starts: dict[int, int], ends: dict[int, int], boards: Boards | None, folder: Path) -> Scanned:
        """Every record from the start of the range on, and with it the boards."""
        exported = self.options.partner_ids
        scanned = Scanned.empty(folder, exported.stat().st_mtime if exported and exported.exists() else None)
        total = sum(max(0, ends[partition] - starts[partition]) for partition in self.topic.partitions)
        read = 0
        for partition in self.topic.partitions:
            end = scanned.ends[partition] = max(ends[partition], boards.begin(partition) if boards else 0)
            for records in self.topic.records(partition, starts[partition], end):
                parsed = scanned.take(records, self.options.wanted)
                if boards:
                    boards.take(parsed)
                read += len(records.offsets)
                self.options.progress("Kafka", read, total)
            if boards:
                boards.end()
        return scanned

    def _search(self, begins: dict[int, int], starts: dict[int, int], rows: Spool, scanned: Scanned) -> None:
        """Rows that were not found may have come much earlier, with an event time far ahead: look before the scan."""
        earlier = [partition for partition in self.topic.partitions if begins[partition] < starts[partition]]
        absent = scanned.absent(rows) if earlier else np.empty(0, np.uint64)
        for partition in earlier if len(absent) else ():
            for records in self.topic.records(partition, begins[partition], starts[partition]):
                scanned.search(records, self.options.wanted, absent)
                self.options.progress("Kafka, before the range", 0, 0)

    def _letters(self, folder: Path) -> Letters:
        name = self.settings.kafka_topic_dead_letters
        found = describe(self.topic.admin, name)
        if found is None:
            raise CouldNotLook(f"Could not look into Kafka: it has no topic {name} (KAFKA_TOPIC_DEAD_LETTERS)")
        return Letters.read(folder, read_letters(self.settings.kafka, self.topic.admin, found), self.topic.topic.name)

    def _captured(self, table: EventsTable, rows: Spool, scanned: Scanned, behind: bool) -> Sums:
        sums, ids, texts = compare_with_postgres(rows, scanned, self.findings, self.lacking, behind=behind)
        self._strangers(table, ids, texts)
        return sums

    def _strangers(self, table: EventsTable, ids: list[int], texts: list[str]) -> None:
        """Events that Kafka has and the snapshot has not: newer rows, other producers, or what should not be there.

        An integer id between the lowest and the highest of the range's rows can only come from the table: a row that
        was deleted, or one that never was. All others come from other producers."""
        known: set[int] = set()
        for first in range(0, len(ids), IDS_ASKED):
            known |= table.known_now(ids[first : first + IDS_ASKED])
        low, high = table.lowest, table.highest
        strange = [each for each in ids if each not in known]
        inside = [each for each in strange if low is not None and high is not None and low <= each <= high]
        self.findings.add("kafka", "unexpected", [str(each) for each in inside])
        outside = sorted(set(strange) - set(inside))
        self.findings.add("kafka", "from elsewhere", [*(str(each) for each in outside), *texts])

    def _held(self, sink: str, folder: Path, scanned: Scanned, stale_lengths: set[str]) -> Spool | None:
        """What a sink holds; None where nobody can look."""
        spool, wanted = Spool(folder, f"held-{sink}"), self.options.wanted
        if sink == "bigquery":
            topic = self.topic.topic.name, self.topic.topic.topic_id
            with looking_at("BigQuery"):
                source = self.options.bigquery or TableRows(BigQueryTable(**self.settings.bigquery))
                for batch in source.rows(wanted.begin_us, wanted.end_us):
                    rows, named = judged(batch, self.contents, topic, stale_lengths)
                    spool.append(rows[~self._came_since(rows, scanned)], named)
                    self.options.progress("BigQuery", len(spool), 0)
            return spool
        if self.options.partner_ids is None:
            self.notes.append("The partner cannot be looked into without --partner-ids: its position is believed.")
            return None
        for rows, named in partner_rows(self.options.partner_ids, wanted):
            spool.append(rows, named)
            self.options.progress("partner", len(spool), 0)
        return spool

    def _came_since(self, rows: Rows, scanned: Scanned) -> npt.NDArray[np.bool_]:
        """Which rows are of records that came to Kafka after it was read: bool [n]."""
        end = np.array([scanned.ends.get(partition, 2**62) for partition in rows["partition"].tolist()], np.int64)
        later: npt.NDArray[np.bool_] = ((rows["flags"] & FOREIGN) == 0) & (rows["offset"] >= end)
        if not later.any():
            return later
        with looking_at("Kafka"):
            now = self.topic.committed_ends()
        return later & (rows["offset"] < [now.get(partition, 0) for partition in rows["partition"].tolist()])

    def _retained_us(self, begins: dict[int, int]) -> int:
        """Rows with an event time before this may have left the topic by age; below all times where it is whole."""
        cut = [partition for partition, begin in begins.items() if begin > 0]
        if not cut:
            return ALL.begin_us
        oldest = max(self.topic.first_ms(partition, begins[partition]) for partition in cut)
        border_us = (oldest + AHEAD_MS_MAX) * 1000
        if border_us > self.options.wanted.begin_us:
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
    wanted = Range(ALL.begin_us if begin is None else us_of(begin), ALL.end_us if end is None else us_of(end))
    return Audit(settings, Options(wanted, sinks, partner_ids, bigquery, wait_s, progress)).run()


def us_of(moment: datetime) -> int:
    """Microseconds since 1970."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def default_range(now_s: float | None = None) -> Range:
    """The last hour, less the minute in which events are still on their way."""
    end_s = int(time.time() if now_s is None else now_s) // 60 * 60 - 60
    return Range((end_s - 3600) * 1_000_000, end_s * 1_000_000)


def _iso(us: int) -> str:
    """For people; the ends of all times by name."""
    if us <= ALL.begin_us:
        return "the beginning"
    if us >= ALL.end_us:
        return "now"
    return (EPOCH + timedelta(microseconds=us)).isoformat().replace("+00:00", "Z")
