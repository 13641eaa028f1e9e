"""A sink inside a flow: what goes wrong ends the process with a sentence, what is settled is counted."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from bytewax.outputs import DynamicSink, FixedPartitionedSink, StatefulSinkPartition, StatelessSinkPartition

from dataflows.lifecycle import ending
from dataflows.status import Progress
from sources.positions import Claim, PartitionId, Span


class Settled(Protocol):
    """What every item says: the stretch it covers."""

    @property
    def span(self) -> Span: ...


X = TypeVar("X", bound=Settled)
S = TypeVar("S")


class Guard:
    """A sink as a destination, and the count of what it has settled."""

    def __init__(self, sink: Any, progress: Progress) -> None:
        self.sink = sink
        self.name: str = sink.name
        self._progress = progress

    def claim(self, partition: PartitionId, owner: str) -> Claim:
        """See sources.positions.Destination."""
        claim: Claim = self.sink.claim(partition, owner)
        if claim.offset_next is not None:
            self._progress.settled[self.name, partition.partition] = claim.offset_next
        return claim

    def count(self, items: Sequence[Settled]) -> None:
        """The items are acknowledged."""
        for item in items:
            key = (self.name, item.span.partition.partition)
            self._progress.settled[key] = max(self._progress.settled.get(key, 0), item.span.offset_next)


def guarded(sink: Any, progress: Progress) -> "GuardedSink[Any] | GuardedPartitionedSink[Any, Any]":
    """The sink as the engine and the source take it."""
    if isinstance(sink, FixedPartitionedSink):
        return GuardedPartitionedSink(sink, progress)
    return GuardedSink(sink, progress)


class GuardedSink(Guard, DynamicSink[X]):
    """A sink that has settled a batch when it has taken it."""

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "GuardedPart[X]":
        with ending(f"building {self.name}"):
            return GuardedPart(self, self.sink.build(step_id, worker_index, worker_count))
        raise AssertionError("unreachable")


class GuardedPart(StatelessSinkPartition[X]):
    """One worker's part of the sink."""

    def __init__(self, sink: GuardedSink[X], part: StatelessSinkPartition[X]) -> None:
        self._sink = sink
        self._part = part

    def write_batch(self, items: list[X]) -> None:
        """Everything in `items` is acknowledged when this returns."""
        with ending(f"writing to {self._sink.name}"):
            self._part.write_batch(items)
        self._sink.count(items)

    def close(self) -> None:
        self._part.close()


class GuardedPartitionedSink(Guard, FixedPartitionedSink[X, S]):
    """A sink with a write under way: settled when it takes the next one, and in its snapshot."""

    def list_parts(self) -> list[str]:
        parts: list[str] = self.sink.list_parts()
        return parts

    def part_fn(self, item_key: str) -> int:
        return int(self.sink.part_fn(item_key))

    def build_part(self, step_id: str, for_part: str, resume_state: S | None) -> "GuardedStatefulPart[X, S]":
        with ending(f"building {self.name}"):
            return GuardedStatefulPart(self, self.sink.build_part(step_id, for_part, resume_state))
        raise AssertionError("unreachable")


class GuardedStatefulPart(StatefulSinkPartition[X, S]):
    """One part of such a sink."""

    def __init__(self, sink: GuardedPartitionedSink[X, S], part: StatefulSinkPartition[X, S]) -> None:
        self._sink = sink
        self._part = part
        self._under_way: list[X] = []

    def write_batch(self, values: list[X]) -> None:
        """Everything before `values` is acknowledged when this returns."""
        with ending(f"writing to {self._sink.name}"):
            self._part.write_batch(values)
        self._settled()
        self._under_way = values

    def snapshot(self) -> S:
        """Everything is acknowledged when this returns."""
        with ending(f"settling {self._sink.name}"):
            state = self._part.snapshot()
        self._settled()
        return state

    def close(self) -> None:
        self._part.close()

    def _settled(self) -> None:
        self._sink.count(self._under_way)
        self._under_way = []
