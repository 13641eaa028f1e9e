"""Two systems compared, a bucket of event ids at a time: what is missing, doubled, altered, or from nowhere."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from operations.audit.bigquery import FOREIGN, STALE, WITHOUT_COLUMNS, WRONG
from operations.audit.report import Findings, Sums
from operations.audit.scan import AFTER_EXPORT, IN_RANGE, REJECTED, REPLAYED, TARGETED, Letters, Scanned
from operations.audit.spool import BUCKETS, Keys, Rows, Spool, named_keys, places

EXPIRED: Final = 1  # flag of a row of PostgreSQL: so old that Kafka may no longer have its record
Mask = npt.NDArray[np.bool_]


@dataclass
class Lacking:
    """What a repair sends again.

    places  sink -> (partition, offset) of each record that the sink lacks
    ids     rows of PostgreSQL that Kafka lacks
    wrong   sink -> (partition, offset) of each record of the events that are doubled or altered there
    """

    places: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    ids: list[int] = field(default_factory=list)
    wrong: dict[str, list[tuple[int, int]]] = field(default_factory=dict)


def pairs(rows: Rows, placed: bool) -> Keys:
    """Everything that must agree about an event as one number: its id and columns, and where it lies if `placed`."""
    found: Keys = (rows["key"] * np.uint64(0x9E3779B97F4A7C15)) ^ _turned(rows["print"])
    if placed:
        where = _where(rows) * np.uint64(0xD1B54A32D192ED03)
        found = found ^ where ^ (rows["stamp"].astype(np.uint64) * np.uint64(0x8CB92BA72F3D8DD7))
    return found


def _turned(keys: Keys) -> Keys:
    return (keys << np.uint64(23)) | (keys >> np.uint64(41))


def compare_with_postgres(
    table: Spool, scanned: Scanned, findings: Findings, lacking: Lacking, *, behind: bool
) -> tuple[Sums, list[int], list[str]]:
    """PostgreSQL -> Kafka. Also the integer ids and the other ids that only Kafka has.

    behind  the capture has not sent all rows of this snapshot yet: none is called missing"""
    sums = Sums("kafka", records=len(table))
    strange_ids: list[int] = []
    strange_texts: list[str] = []
    for number in range(BUCKETS):
        rows, records = table.bucket(number), scanned.records.bucket(number)
        originals = records[(records["flags"] & REPLAYED) == 0]
        names = scanned.records.names(number)
        absent = rows[~np.isin(rows["key"], originals["key"]) & ((rows["flags"] & EXPIRED) == 0)]
        if behind:
            sums.not_due += len(absent)
        elif len(absent):
            ids = named_keys(absent["key"].tolist(), names)
            findings.add("kafka", "missing", ids)
            lacking.ids += map(int, ids)
            sums.missing += len(absent)
        keys, counts = np.unique(originals["key"], return_counts=True)
        twice = keys[(counts > 1) & np.isin(keys, rows["key"])]
        findings.add("kafka", "doubled", named_keys(twice.tolist(), names))
        captured = originals[np.isin(originals["key"], rows["key"])]
        other = captured[~np.isin(pairs(captured, False), pairs(rows, False))]
        findings.add("kafka", "altered", named_keys(np.unique(other["key"]).tolist(), names))
        here = originals[(originals["flags"] & IN_RANGE) != 0]
        for key in np.unique(here["key"][~np.isin(here["key"], rows["key"])]).tolist():
            [name] = named_keys([key], names)
            if key in names:
                strange_texts.append(name)
            else:
                strange_ids.append(int(name))
    sums.delivered = sums.records - sums.not_due - sums.missing
    return sums, strange_ids, strange_texts


@dataclass(frozen=True)
class Delivery:
    """One sink that holds events, and what it ought to hold.

    flag       of records and letters for this sink alone (scan.FOR)
    positions  Kafka partition -> the first offset that the sink still needs
    held       what it holds; None: it cannot be looked into, and is believed up to its position
    placed     its rows say which record they came from
    """

    sink: str
    flag: int
    positions: dict[int, int]
    held: Spool | None
    placed: bool


def compare_delivery(
    delivery: Delivery, table: Spool, scanned: Scanned, letters: Letters, findings: Findings, lacking: Lacking
) -> Sums:
    """Kafka -> a sink: every record ends there or in the dead letters, once."""
    sums = Sums(delivery.sink)
    for number in range(BUCKETS):
        _Bucket(delivery, number, table, scanned, letters).judge(findings, lacking, sums)
    return sums


class _Bucket:
    """One bucket of event ids of one sink."""

    def __init__(self, delivery: Delivery, number: int, table: Spool, scanned: Scanned, letters: Letters) -> None:
        self.delivery, self.number = delivery, number
        self.scanned = scanned
        self.records = scanned.records.bucket(number)
        flags = self.records["flags"]
        self.in_range: Mask = (flags & IN_RANGE) != 0
        self.rejected: Mask = (flags & REJECTED) != 0
        self.elsewhere: Mask = ((flags & TARGETED) != 0) & ((flags & delivery.flag) == 0)
        self.where = _where(self.records)
        self.for_us: Mask = ~self.rejected & ~self.elsewhere
        self.refused: Mask = self.for_us & self._named_by(letters.refused)
        self.repaired: Mask = self.for_us & ~self.refused & self._named_by(scanned.repairs)
        self.wanted: Mask = self.for_us & ~self.refused & ~self.repaired
        position = np.zeros(1 + max([*delivery.positions, *self.records["partition"].tolist(), 0]), np.int64)
        for partition, at in delivery.positions.items():
            position[partition] = at
        due = self.wanted & (self.records["offset"] < position[self.records["partition"]])
        # what the partner exported before a record came cannot hold it
        self.due: Mask = due if delivery.placed else due & ((flags & AFTER_EXPORT) == 0)
        rows = table.bucket(number)
        old = ((rows["flags"] & EXPIRED) != 0) & ~np.isin(rows["key"], self.records["key"])
        self.expired = rows[old]
        self.names = scanned.records.names(number)

    def judge(self, findings: Findings, lacking: Lacking, sums: Sums) -> None:
        sums.records += int(self.in_range.sum()) + len(self.expired)
        sums.rejected += int((self.in_range & self.rejected).sum())
        sums.elsewhere += int((self.in_range & self.elsewhere & ~self.rejected).sum())
        sums.refused += int((self.in_range & self.refused).sum())
        sums.repaired += int((self.in_range & self.repaired).sum())
        due = self.records[self.due & self.in_range]
        later = self.records[self.wanted & ~self.due & self.in_range]
        if self.delivery.held is None:
            sums.delivered += len(due) + len(self.expired)
            sums.not_due += len(later)
            return
        held = self._judged(self.delivery.held.bucket(self.number))
        self.names |= self.delivery.held.names(self.number)
        keys = np.unique(np.concatenate([self.records["key"], self.expired["key"], held["key"]]))
        must = _count(keys, due["key"]) + _count(keys, self.expired["key"])
        may = must + _count(keys, later["key"])
        found = _count(keys, held["key"])
        sums.delivered += len(held)
        sums.not_due += int(np.clip(may - np.maximum(found, must), 0, None).sum())
        sums.missing += int(np.clip(must - found, 0, None).sum())
        surplus = np.clip(found - may, 0, None)
        sums.surplus += int(surplus.sum())
        known = np.isin(keys, self.records["key"][self.wanted & self.in_range])
        also = np.isin(keys, self.records["key"][~self.wanted])
        moved = np.isin(keys, self.records["key"][self.wanted & ~self.in_range])  # its time was altered: said below
        sink = self.delivery.sink
        old = np.isin(keys, self.expired["key"])
        self._add(findings, sink, "doubled", keys[(surplus > 0) & (known | old)])
        self._add(findings, sink, "there, but not to be", keys[(surplus > 0) & ~known & ~old & ~moved & also])
        self._add(findings, sink, "unexpected", keys[(surplus > 0) & ~known & ~old & ~moved & ~also])
        altered = self._altered(held)
        self._add(findings, sink, "missing", keys[found < must])
        self._add(findings, sink, "altered", altered)
        self._add(findings, sink, "stale", np.unique(held["key"][(held["flags"] & STALE) != 0]))
        # what is corrected as a whole is not sent again, and what is still on its way is corrected when it is there
        wrong = np.union1d(keys[(surplus > 0) & known], altered)
        wrong = wrong[np.isin(wrong, due["key"]) & ~np.isin(wrong, later["key"])]
        self._lacks(lacking.wrong, due[np.isin(due["key"], wrong)])
        absent = due[np.isin(due["key"], np.setdiff1d(keys[found < must], wrong))]
        if self.delivery.placed:
            own = held[(held["flags"] & FOREIGN) == 0]
            absent = absent[~np.isin(_where(absent), _where(own))]
        self._lacks(lacking.places, _first_of_each(absent, keys, must - found))

    def _judged(self, held: Rows) -> Rows:
        """Without the ids that say no time of their own and are of no event of the range."""
        here = np.isin(held["key"], self.records["key"][self.in_range]) | np.isin(held["key"], self.expired["key"])
        never = ~np.isin(held["key"], self.records["key"]) if self.scanned.whole else np.zeros(len(held), bool)
        judged: Rows = held[((held["flags"] & WITHOUT_COLUMNS) == 0) | here | never]
        return judged

    def _lacks(self, of_sink: dict[str, list[tuple[int, int]]], records: Rows) -> None:
        if len(records):
            of_sink.setdefault(self.delivery.sink, []).extend(_listed(records))

    def _altered(self, held: Rows) -> Keys:
        """Keys of events whose columns are other ones than the record's."""
        wanted = self.records[self.for_us]
        flags = held["flags"]
        wrong = (flags & WRONG) != 0
        comparable = held[(flags & WITHOUT_COLUMNS) == 0]
        own = (comparable["flags"] & FOREIGN) == 0 if self.delivery.placed else np.zeros(len(comparable), bool)
        known = np.isin(comparable["key"], wanted["key"])
        differs = np.where(
            own,
            ~np.isin(pairs(comparable, True), pairs(wanted, True)),
            ~np.isin(pairs(comparable, False), pairs(wanted, False)),
        )
        old = np.isin(comparable["key"], self.expired["key"])
        differs_old = ~np.isin(pairs(comparable, False), pairs(self.expired, False))
        altered = np.concatenate(
            [held["key"][wrong], comparable["key"][known & differs], comparable["key"][old & differs_old]]
        )
        return np.unique(altered)

    def _named_by(self, spool: Spool) -> Mask:
        """Which records a letter or a repair of this sink names by their place."""
        named = spool.bucket(self.number)
        named = named[named["flags"] == self.delivery.flag]
        return np.isin(self.where, _where(named))

    def _add(self, findings: Findings, where: str, kind: str, keys: Keys) -> None:
        findings.add(where, kind, named_keys(keys.tolist(), self.names))


def compare_letters(
    scanned: Scanned, letters: Letters, position: dict[int, int], starts: dict[int, int], findings: Findings
) -> Sums:
    """Each rejected record has one letter, with its bytes.

    starts  Kafka partition -> the first offset that was scanned"""
    sums = Sums("dead_letters", records=len(scanned.rejected))
    for number in range(BUCKETS):
        rejected, found = scanned.rejected.bucket(number), letters.parse.bucket(number)
        ends = np.array([position.get(partition, 0) for partition in rejected["partition"].tolist()], np.int64)
        absent = ~np.isin(rejected["key"], found["key"])
        due = rejected["offset"] < ends
        sums.not_due += int((absent & ~due).sum())
        sums.missing += int((absent & due).sum())
        sums.refused += int((~absent).sum())
        findings.add("dead_letters", "missing", _placed(rejected[absent & due]))
        keys, first, counts = np.unique(found["key"], return_index=True, return_counts=True)
        known = np.isin(keys, rejected["key"])
        findings.add("dead_letters", "doubled", _placed(found[first[(counts > 1) & known]]))
        begin = np.array([starts.get(partition, 2**62) for partition in found["partition"].tolist()], np.int64)
        end = np.array([scanned.ends.get(partition, 0) for partition in found["partition"].tolist()], np.int64)
        read = (found["offset"] >= begin) & (found["offset"] < end)  # letters of younger records came since
        strange = found[read & ~np.isin(found["key"], rejected["key"])]
        findings.add("dead_letters", "unexpected", _placed(strange))
        of_rejected = found[np.isin(found["key"], rejected["key"])]
        other = of_rejected[~np.isin(pairs(of_rejected, False), pairs(rejected, False))]
        findings.add("dead_letters", "altered", _placed(other))
    return sums


def _first_of_each(rows: Rows, keys: Keys, counts: npt.NDArray[np.int64]) -> Rows:
    """Of the rows of each key the first so many. keys: sorted, aligned with counts"""
    rows = rows[np.argsort(rows["key"], kind="stable")]
    number = np.arange(len(rows)) - np.searchsorted(rows["key"], rows["key"])
    return rows[number < counts[np.searchsorted(keys, rows["key"])]]


def _where(rows: Rows) -> Keys:
    return places(rows["partition"], rows["offset"])


def _placed(rows: Rows) -> list[str]:
    return [f"{partition}/{offset}" for partition, offset in _listed(rows)]


def _listed(rows: Rows) -> list[tuple[int, int]]:
    return list(zip(rows["partition"].tolist(), rows["offset"].tolist(), strict=True))


def _count(keys: Keys, found: Keys) -> npt.NDArray[np.int64]:
    """How often each of `keys` (sorted, unique, all that are found among them) occurs."""
    return np.bincount(np.searchsorted(keys, found), minlength=len(keys)).astype(np.int64)
