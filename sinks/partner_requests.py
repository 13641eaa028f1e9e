"""What goes to the partner in one request: its events, its range of offsets, its body and its key.

Pure: the same records and the same stored range make the same request again.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from sinks.batches import Batch
from sources.positions import PartitionId


class Stored(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is stored beside `offset_next`.

    to        the request in flight covers [offset_next, to); None: nothing is in flight
    events    how many events it carries; array: they go out as a JSON array, else as one object
    refused   offsets of the events refused alone since the last acceptance: a restart does not forget the count
    """

    to: int | None = None
    events: int = 0
    array: bool = True
    refused: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One event on its way: its body and the record it came in (row `index` of `batch`)."""

    offset: int
    body: bytes
    batch: Batch
    index: int


@dataclass(frozen=True, slots=True)
class Request:
    """Events that go out together: all that this sink takes of [offset_from, offset_next)."""

    offset_from: int
    offset_next: int
    events: Sequence[Outgoing]
    array: bool

    def body(self) -> bytes:
        """A JSON array, or the single object."""
        if not self.array:
            return self.events[0].body
        return b"[" + b",".join(event.body for event in self.events) + b"]"

    def halves(self) -> "tuple[Request, Request]":
        """The same events as two requests; together they cover the same range."""
        middle = len(self.events) // 2
        first, second = self.events[:middle], self.events[middle:]
        cut = first[-1].offset + 1
        return (
            Request(self.offset_from, cut, first, self.array),
            Request(cut, self.offset_next, second, self.array),
        )


def idempotency_key(partition: PartitionId, offsets: Iterable[int]) -> str:
    """SHA-256 in hex over these ASCII bytes: `<topic id>/<partition>/<offset>,<offset>,...`

    topic id is Kafka's own as text, numbers are decimal, offsets ascending; no space, no end of line. A record that is
    replayed from the dead letters has another offset, so another key."""
    text = f"{partition.topic_id}/{partition.partition}/{','.join(map(str, offsets))}"
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def requests(
    events: Sequence[Outgoing], offset_from: int, offset_next: int, batch_size: int, in_flight: Stored
) -> list[Request]:
    """How [offset_from, offset_next) goes out: first the range in flight as it was, then up to `batch_size` each."""
    made: list[Request] = []
    rest = list(events)
    if in_flight.to is not None:
        first = [event for event in rest if event.offset < in_flight.to]
        rest = rest[len(first) :]
        made.append(Request(offset_from, in_flight.to, first, in_flight.array))
    groups = [rest[start : start + batch_size] for start in range(0, len(rest), batch_size)]
    for group in groups:
        since = made[-1].offset_next if made else offset_from
        until = offset_next if group is groups[-1] else group[-1].offset + 1
        made.append(Request(since, until, group, array=batch_size > 1))
    return made
