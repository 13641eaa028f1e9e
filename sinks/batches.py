"""What the sinks that take micro-batches have in common: what they use of one, and which of them they still need."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

import numpy as np
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from sources.positions import Fenced, PartitionId, PositionGap, Span

Integers = np.ndarray[Any, np.dtype[np.int64]]


class Covering(Protocol):
    """Anything that covers a stretch of a Kafka partition."""

    @property
    def span(self) -> Span: ...


class Batch(Protocol):
    """Accepted events of one span, in offset order; all columns have length n.

    timestamps_ms are Kafka's, int64 milliseconds; targets names the only sink that takes an event, None: all do."""

    span: Span
    offsets: Integers
    keys: list[bytes | None]
    values: list[bytes]
    timestamps_ms: Integers
    event_ids: list[str]
    targets: list[str | None] | None


X = TypeVar("X", bound=Covering)


def by_partition(batches: Iterable[X]) -> dict[PartitionId, list[X]]:
    """The batches of each Kafka partition, in their order."""
    found: dict[PartitionId, list[X]] = {}
    for batch in batches:
        found.setdefault(batch.span.partition, []).append(batch)
    return found


def is_needed(span: Span, sink: str, owner: str, offset_next: int) -> bool:
    """Whether a batch reaches beyond `offset_next`, where the sink stands. One that does may begin below it.

    Raises Fenced for a batch of another reader than `owner`, PositionGap for one that begins beyond the position."""
    if span.owner != owner:
        raise not_owned(span, sink)
    if span.offset_from > offset_next:
        raise PositionGap(
            f"A batch of partition {span.partition.partition} of {span.partition.topic} begins at offset "
            f"{span.offset_from}, but sink {sink} still needs {offset_next}: nothing of it was delivered. Start again; "
            "if it repeats itself, without the recovery directory."
        )
    return span.offset_next > offset_next


def not_owned(span: Span, sink: str) -> Fenced:
    """What a sink says of a batch whose reader has not claimed the partition here, or no longer owns it."""
    return Fenced(
        f"A batch of partition {span.partition.partition} of {span.partition.topic} reached sink {sink} from a reader "
        "that does not own it here: another one has claimed the partition since. This process ends."
    )


class SharedSink(DynamicSink[Any]):
    """A sink whose worker parts share one object: it knows the positions of all partitions that the process reads."""

    @abstractmethod
    def write(self, items: list[Any], /) -> None:
        """Deliver the items, of one partition or several, each in offset order: acknowledged when this returns."""

    def close(self) -> None:
        """The input has ended."""

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "SharedSinkPart":
        return SharedSinkPart(self)


class SharedSinkPart(StatelessSinkPartition[Any]):
    """One worker's end of the sink; nothing outlives `write_batch`."""

    def __init__(self, sink: SharedSink) -> None:
        self._sink = sink

    def write_batch(self, items: list[Any]) -> None:
        self._sink.write(items)

    def close(self) -> None:
        self._sink.close()
