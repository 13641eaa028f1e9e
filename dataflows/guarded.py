"""A sink inside a flow: what goes wrong ends the process with a sentence, what is settled is counted."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from bytewax.outputs import DynamicSink, StatelessSinkPartition

from dataflows.lifecycle import ending
from dataflows.status import Progress
from sources.positions import Claim, PartitionId, Span


class Settled(Protocol):
    """What every item says: the stretch it covers."""

    @property
    def span(self) -> Span: ...


X = TypeVar("X", bound=Settled)


class GuardedSink(DynamicSink[X]):
    """A sink that is also a destination."""

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

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "GuardedPart[X]":
        with ending(f"building {self.name}"):
            return GuardedPart(self, self.sink.build(step_id, worker_index, worker_count))
        raise AssertionError("unreachable")

    def count(self, items: Sequence[X]) -> None:
        """The items are acknowledged."""
        for item in items:
            key = (self.name, item.span.partition.partition)
            self._progress.settled[key] = max(self._progress.settled.get(key, 0), item.span.offset_next)


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
