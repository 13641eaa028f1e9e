"""What goes to the partner in one request: its events, its range of offsets and its key; and what is stored of it.

Pure: the same records and the same stored range make the same requests again.
"""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from sinks.batches import Batch, Integers
from sources.positions import PartitionId

# Of one range in flight, so of one transaction: what a partition reads at once, 10,000 events, at the default size. A
# transaction costs 7-15 ms, a request of 500 events 7 ms. A kill may have that many requests repeated.
RANGE_REQUESTS_MAX = 20


class Stored(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is stored beside `offset_next`.

    to        the range in flight covers [offset_next, to); None: nothing is in flight
    events    how many events each of its requests carries, in order; a number where it is one request: earlier
              versions know that form, and stop at a range of several rather than send it as one
    array     they go out as JSON arrays, else as single objects
    refused   offsets of the events refused alone since the last acceptance: a restart does not forget the count
    """

    to: int | None = None
    events: int | tuple[int, ...] = 0
    array: bool = True
    refused: tuple[int, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """`events` of each request."""
        return self.events if isinstance(self.events, tuple) else (self.events,)


@dataclass(frozen=True, slots=True)
class Events:
    """Rows of one batch, ascending. Columns, not an object per event: that costs 0.5 us each.

    made   what is to be sent of each row of the batch that goes out;  first: of which number in it these rows are
    """

    batch: Batch
    rows: Integers
    made: "Future[Sequence[Any]]" = field(default_factory=Future)
    first: int = 0

    @property
    def offsets(self) -> list[int]:
        found: list[int] = self.batch.offsets[self.rows].tolist()
        return found

    @property
    def values(self) -> Sequence[Any]:
        """What is to be sent of each row; waits until it is made."""
        return self.made.result()[self.first : self.first + len(self.rows)]

    def part(self, begin: int, end: int) -> "Events":
        """Those from number `begin` to before number `end`."""
        return Events(self.batch, self.rows[begin:end], self.made, self.first + begin)


def count(events: Iterable[Events]) -> int:
    """How many events there are."""
    return sum(len(each.rows) for each in events)


@dataclass(frozen=True, slots=True)
class Request:
    """Events that go out together: all that this sink takes of [offset_from, offset_next).

    array: as a JSON array, else it is one event, as a single object"""

    offset_from: int
    offset_next: int
    events: tuple[Events, ...]
    array: bool

    def __len__(self) -> int:
        return count(self.events)

    @property
    def offsets(self) -> list[int]:
        return [offset for each in self.events for offset in each.offsets]

    def halves(self) -> "list[Request]":
        """The same events as two requests; together they cover the same range."""
        middle = len(self) // 2
        return planned(self.events, self.offset_from, self.offset_next, [middle, len(self) - middle], self.array)


def idempotency_key(partition: PartitionId, offsets: Iterable[int]) -> str:
    """SHA-256 in hex over these ASCII bytes: `<topic id>/<partition>/<offset>,<offset>,...`

    topic id is Kafka's own as text, numbers are decimal, offsets ascending; no space, no end of line. A record that is
    replayed from the dead letters has another offset, so another key."""
    text = f"{partition.topic_id}/{partition.partition}/{','.join(map(str, offsets))}"
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def planned(
    events: Sequence[Events], offset_from: int, offset_next: int, sizes: Sequence[int], array: bool
) -> list[Request]:
    """`events` as requests of these sizes, their sum; together they cover [offset_from, offset_next)."""
    made: list[Request] = []
    rest = tuple(events)
    for size in sizes:
        own, rest = cut(rest, size)
        until = int(own[-1].batch.offsets[own[-1].rows[-1]]) + 1 if rest else offset_next
        made.append(Request(offset_from, until, own, array))
        offset_from = until
    return made


def sizes_of(events: int, batch_size: int) -> list[int]:
    """How many events each request carries where `events` wait: `batch_size`, the last one what is left."""
    return [min(batch_size, events - sent) for sent in range(0, events, batch_size)]


def stored_range(pending: Sequence[Request], refused: tuple[int, ...]) -> Stored:
    """What is stored before the first of these requests goes out."""
    if not pending:
        return Stored(refused=refused)
    sizes = tuple(map(len, pending))
    return Stored(pending[-1].offset_next, sizes if len(sizes) > 1 else sizes[0], pending[0].array, refused)


def cut(events: Sequence[Events], size: int) -> tuple[tuple[Events, ...], tuple[Events, ...]]:
    """The first `size` events, and the others."""
    first: list[Events] = []
    for number, each in enumerate(events):
        if size < len(each.rows):
            if size:
                first.append(each.part(0, size))
            return tuple(first), (each.part(size, len(each.rows)), *events[number + 1 :])
        first.append(each)
        size -= len(each.rows)
    return tuple(first), ()


def below(events: Sequence[Events], offset: int) -> int:
    """How many of the events lie below `offset`."""
    return sum(int(np.searchsorted(each.batch.offsets[each.rows], offset)) for each in events)
