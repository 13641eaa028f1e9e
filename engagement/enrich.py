"""Events -> enriched events: the content row, the share of the content consumed, and what looks wrong.

Everything is integers: hundredths of a percent and thousandths of a score, rounded half up, so that a replay gives the
same numbers bit by bit.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import compress, filterfalse, repeat
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from engagement.events import CLICK, FINISH, PAUSE, PLAY, is_uuid
from engagement.parse import Integers, ParsedEvents

SCORE_WEIGHTS: Final = {PLAY: 1000, PAUSE: 500, FINISH: 3000, CLICK: 300}
_WEIGHTS: Final = np.array([SCORE_WEIGHTS[code] for code in range(4)], np.int64)

ANOMALIES: Final = ("over_length", "finish_too_early", "duration_missing", "unknown_content")
OVER_LENGTH, FINISH_TOO_EARLY, DURATION_MISSING, UNKNOWN_CONTENT = 1, 2, 4, 8
# bits -> names in the order above: an event's anomalies are ANOMALY_NAMES[anomaly_bits[i]]
ANOMALY_NAMES: Final = tuple(
    tuple(compress(ANOMALIES, (bits >> bit & 1 for bit in range(len(ANOMALIES)))))
    for bits in range(1 << len(ANOMALIES))
)


class ContentRow(NamedTuple):
    """One row of `content`: id in lower case, length in seconds or None."""

    id: str
    slug: str | None
    title: str | None
    content_type: str | None
    length_seconds: int | None


_CONTENT_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("id", pa.string()),
    ("slug", pa.string()),
    ("title", pa.string()),
    ("content_type", pa.string()),
    ("length_seconds", pa.int64()),
]
CONTENT_SCHEMA: Final = pa.schema(_CONTENT_COLUMNS)
NO_CONTENT: Final = ContentRow("", None, None, None, None)


class _StoredContent(msgspec.Struct):
    """A content under the names of the enriched event."""

    content_id: str
    content_slug: str | None
    content_title: str | None
    content_type: str | None
    content_length_seconds: int | None


_encode: Final = msgspec.json.Encoder().encode


def content_columns(rows: Iterable[tuple[Any, ...]]) -> pa.RecordBatch:
    """Rows (ContentRow's columns) as CONTENT_SCHEMA."""
    fields = list(zip(*rows, strict=True)) or [()] * len(CONTENT_SCHEMA)
    columns = [pa.array(values, of.type) for values, of in zip(fields, CONTENT_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=CONTENT_SCHEMA)


class ContentTable:
    """Content rows by number; row 0 is NO_CONTENT. Rows never move, so a number means the same for ever.

    Columns, not objects: 100,000 contents take 16 MB instead of 90, are taken in without Python's touching each field,
    and BigQuery's columns are taken from them as they are.

    ids      by number;  lengths  in seconds by number, -1: null
    columns  CONTENT_SCHEMA, by number
    """

    def __init__(self) -> None:
        self.columns = content_columns([NO_CONTENT])
        self.ids: list[str] = [NO_CONTENT.id]
        self.lengths: Integers = np.array([-1], np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, number: int) -> ContentRow:
        return self.take([number])[0]

    def take(self, numbers: Sequence[int] | Integers) -> list[ContentRow]:
        """The rows of these numbers, in that order; one that is named again is made once."""
        distinct, places = np.unique(np.asarray(numbers, np.int64), return_inverse=True)
        taken = self.columns.take(distinct)
        rows = list(map(ContentRow, *(column.to_pylist() for column in taken.columns)))
        return [rows[place] for place in places.tolist()]

    def append(self, added: pa.RecordBatch) -> None:
        """Rows of CONTENT_SCHEMA, from the next number on."""
        if not len(added):  # as after each look-up of contents that nobody has; the rest copies the whole table
            return
        self.columns = pa.concat_batches([self.columns, added])  # type: ignore[attr-defined]  # missing in its stubs
        ids: Any = added.column("id")
        self.ids += ids.to_pylist()
        lengths = added.column("length_seconds").fill_null(-1).to_numpy()
        self.lengths = np.concatenate([self.lengths, lengths])


class Contents:
    """The contents known so far, by row number: a change appends, so a batch keeps what it looked up.

    Row 0 (NONE) stands for a null content_id: all its fields are null. UNKNOWN is no row. One thread only.
    """

    NONE: Final = 0
    UNKNOWN: Final = -1

    def __init__(self) -> None:
        self.rows = ContentTable()
        self._row_of: dict[str | None, int] = {None: self.NONE}
        self._absent: set[str] = set()

    def __len__(self) -> int:
        """Number of contents known now."""
        return len(self._row_of) - 1

    @property
    def lengths(self) -> Integers:
        """Length in seconds by row number; -1: null."""
        return self.rows.lengths

    def put(self, rows: Iterable[tuple[Any, ...]]) -> list[int]:
        """Take rows (ContentRow's columns) that are new or have changed; their numbers."""
        return list(self.put_columns(content_columns(rows)))

    def put_columns(self, added: pa.RecordBatch) -> range:
        """The same for columns of CONTENT_SCHEMA."""
        first = len(self.rows)
        self.rows.append(added)
        numbers = range(first, len(self.rows))
        self._row_of.update(zip(self.rows.ids[first:], numbers, strict=True))
        self._absent.difference_update(self.rows.ids[first:])
        return numbers

    def row_of(self, content_id: str | None) -> int:
        """Row number now; NONE for null, UNKNOWN where there is no such content, or nobody has asked."""
        return self._row_of.get(content_id, self.UNKNOWN)

    def rows_of(self, content_ids: Sequence[str | None]) -> Integers:
        """Row numbers now: int64 [n]."""
        return np.fromiter(map(self._row_of.get, content_ids, repeat(self.UNKNOWN)), np.int64, len(content_ids))

    def missing(self, content_ids: Iterable[str | None]) -> set[str]:
        """The ids nobody has looked up yet. Ids that are no UUID cannot be in the table and are never asked for."""
        # Not `set - keys`: that walks over all that is known, a hundred thousand contents for each batch.
        unseen = set(filterfalse(self._row_of.__contains__, content_ids)) - self._absent
        return {content_id for content_id in unseen if content_id is not None and is_uuid(content_id)}

    def mark_absent(self, content_ids: Iterable[str]) -> None:
        """PostgreSQL has been asked and has no such content, or has it no more; batches that hold its row keep it."""
        for content_id in content_ids:
            self._row_of.pop(content_id, None)
            self._absent.add(content_id)

    def clear_absent(self) -> None:
        """Ask again for all that was absent: it may have been written since."""
        self._absent.clear()

    def stored(self, rows: Iterable[int]) -> list[tuple[str, bytes]]:
        """(content_id, JSON of its fields) of rows, as readers of the totals find them."""
        numbers = [number for number in rows if number != self.NONE]
        if not numbers:  # as in nearly every batch, and Arrow's take of nothing costs 0.1 ms
            return []
        return [(row.id, _encode(_StoredContent(*row))) for row in self.rows.take(numbers)]


@dataclass(slots=True)
class EnrichedEvents(ParsedEvents):
    """Parsed events with, per event:

    content_rows      row in `contents`; Contents.NONE: null content_id; Contents.UNKNOWN: no such content
    percentages       hundredths of a percent, -1 null
    anomaly_bits      see ANOMALY_NAMES
    contents_changed  rows of `contents` that must be written anew for this partition (not one per event)
    """

    content_rows: Integers
    percentages: Integers
    anomaly_bits: Integers
    contents: Contents
    contents_changed: list[int]

    def anomalies(self, index: int) -> list[str]:
        """What looks wrong about one event, in the order of ANOMALIES."""
        return list(ANOMALY_NAMES[self.anomaly_bits[index]])


def enrich(parsed: ParsedEvents, contents: Contents, contents_changed: Iterable[int] = ()) -> EnrichedEvents:
    """Looks every content up as it is known now, unless that was done; asks nobody. Shares the columns of `parsed`."""
    rows = contents.rows_of(parsed.content_ids) if parsed.content_rows is None else parsed.content_rows
    percentages = percentage_hundredths(parsed.duration_ms, _lengths(contents, rows))
    parsed.content_rows = rows
    return EnrichedEvents(
        **{field.name: getattr(parsed, field.name) for field in fields(ParsedEvents)},
        percentages=percentages,
        anomaly_bits=_anomaly_bits(parsed.types, parsed.duration_ms, percentages, rows),
        contents=contents,
        contents_changed=list(contents_changed),
    )


def percentage_hundredths(duration_ms: Integers, length_seconds: Integers) -> Integers:
    """Share of the content consumed in hundredths of a percent, half up, exact; above 100 % is kept.

    -1 where the duration is null (-1), or the length is null (-1) or not above 0.
    """
    known = (duration_ms >= 0) & (length_seconds > 0)
    return np.where(known, (duration_ms * 20 + length_seconds) // np.maximum(length_seconds * 2, 1), -1)


def score_thousandths(types: Integers, percentages: Integers) -> Integers:
    """Weight x (1 + min(percentage, 100) / 100) in thousandths, half up; a null percentage (-1) counts 0."""
    share = np.clip(percentages, 0, 10_000)
    return (_WEIGHTS[types] * (10_000 + share) * 2 + 10_000) // 20_000


def _lengths(contents: Contents, rows: Integers) -> Integers:
    return np.where(rows == Contents.UNKNOWN, -1, contents.lengths[rows])


def _anomaly_bits(types: Integers, duration_ms: Integers, percentages: Integers, rows: Integers) -> Integers:
    early = (types == FINISH) & (percentages >= 0) & (percentages < 5_000)
    without_duration = ((types == PAUSE) | (types == FINISH)) & (duration_ms < 0)
    bits: Integers = (
        (percentages > 10_000) * OVER_LENGTH
        + early * FINISH_TOO_EARLY
        + without_duration * DURATION_MISSING
        + (rows == Contents.UNKNOWN) * UNKNOWN_CONTENT
    )
    return bits
