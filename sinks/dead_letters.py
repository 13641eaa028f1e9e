"""What parse rejects, on the dead-letter topic: the record's own key and bytes, with the reason in its headers."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

import metrics
from sinks.batches import SharedSink, by_partition, is_needed, not_owned
from sinks.fenced_commit import DeadLetterRecord, Position, dead_letter
from sources.positions import Claim, PartitionId, Span

SINK = "dead_letters"
REFUSED_BY = "parse"
SETTLE_SECONDS = 3.0  # a transaction costs 7-15 ms: where nothing is rejected the position moves on this often
LETTERS_MAX = 10_000  # of one transaction

log = structlog.get_logger()


class Rejected(Protocol):
    """A record that is no event. timestamp_ms: Kafka's; target, event_id: of a letter that was replayed before."""

    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def reason(self) -> str: ...
    @property
    def detail(self) -> str: ...
    @property
    def timestamp_ms(self) -> int: ...
    @property
    def target(self) -> str | None: ...
    @property
    def event_id(self) -> str | None: ...


class Batch(Protocol):
    """A micro-batch as parse leaves it."""

    @property
    def span(self) -> Span: ...
    @property
    def rejected(self) -> Sequence[Rejected]: ...


@dataclass(slots=True)
class _Partition:
    """offset_next: behind what was taken; stored, stored_at: what Kafka has of it, and since when (monotonic)."""

    owner: str
    position: Position
    offset_next: int
    stored: int
    stored_at: float


class DeadLettersSink(SharedSink):
    """Exactly once: the letters of a batch and the position behind it are one Kafka transaction.

    topic     the dead-letter topic
    position  the fenced position of one Kafka partition (sinks.fenced_commit.FencedCommit)
    clock     wall clock, seconds since 1970; monotonic: seconds, of any origin

    Where nothing is rejected the position follows within SETTLE_SECONDS, at once after a request to stop; a replay of
    that stretch finds nothing to write either. Raises PositionGap, Fenced.
    """

    name = SINK

    def __init__(
        self,
        topic: str,
        position: Callable[[PartitionId], Position],
        *,
        stopping: Callable[[], bool],
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topic = topic
        self._position = position
        self._stopping, self._clock, self._monotonic = stopping, clock, monotonic
        self._partitions: dict[PartitionId, _Partition] = {}

    def claim(self, partition: PartitionId, owner: str) -> Claim:
        """Fence the predecessor, read the position. Blocks while Kafka is away; raises FlowStopped without one."""
        if replaced := self._partitions.pop(partition, None):
            replaced.position.close()
        position = self._position(partition)
        offset_next = position.open().offset_next
        self._partitions[partition] = _Partition(owner, position, offset_next, offset_next, self._monotonic())
        return Claim(offset_next)

    def write(self, batches: Sequence[Batch], /) -> None:
        """Take the batches, of one or several partitions, each in offset order; what waits is joined."""
        for partition, joined in by_partition(batches).items():
            self._write(partition, self._claimed(joined[0].span), joined)

    def close(self) -> None:
        """At the end of the input: store what is only remembered."""
        for partition, state in self._partitions.items():
            self._store(partition, state, [])
            state.position.close()
        self._partitions.clear()

    def _write(self, partition: PartitionId, state: _Partition, batches: Sequence[Batch]) -> None:
        letters: list[Rejected] = []
        for batch in batches:
            letters += self._taken(state, batch)
            if len(letters) >= LETTERS_MAX:
                self._store(partition, state, letters)
                letters = []
        late = self._monotonic() - state.stored_at >= SETTLE_SECONDS
        if letters or late or self._stopping():
            self._store(partition, state, letters)
        state.position.renew(self._clock())

    def _taken(self, state: _Partition, batch: Batch) -> list[Rejected]:
        """What the batch adds beyond the position, which moves behind it in memory."""
        position = state.offset_next
        if not is_needed(batch.span, SINK, state.owner, position):
            return []
        state.offset_next = batch.span.offset_next
        return [rejected for rejected in batch.rejected if rejected.offset >= position]

    def _store(self, partition: PartitionId, state: _Partition, rejected: Sequence[Rejected]) -> None:
        """One transaction; none where Kafka has the position and there is no letter."""
        state.stored_at = self._monotonic()
        if state.offset_next == state.stored and not rejected:
            return
        letters = [self._letter(partition, each) for each in rejected]
        state.position.commit(state.offset_next, letters=letters, topic=self._topic)
        state.stored = state.offset_next
        for reason, count in Counter(each.reason for each in rejected).items():
            metrics.DEAD_LETTERS.labels(REFUSED_BY, reason).inc(count)
        if rejected:
            first = rejected[0]
            log.warning(  # not the detail, which may quote what the record carries: the letter has it
                "rejected",
                partition=partition.partition,
                offset=first.offset,
                event_id=first.event_id,
                reason=first.reason,
                letters=len(rejected),
            )

    def _letter(self, partition: PartitionId, rejected: Rejected) -> DeadLetterRecord:
        return dead_letter(
            rejected.key,
            rejected.value,
            reason=rejected.reason,
            detail=rejected.detail,
            sink=REFUSED_BY,
            topic=partition.topic,
            partition=partition.partition,
            offset=rejected.offset,
            rejected_at_ms=int(self._clock() * 1000),
            kafka_timestamp_ms=rejected.timestamp_ms,
            event_id=rejected.event_id,
            target=rejected.target,
        )

    def _claimed(self, span: Span) -> _Partition:
        state = self._partitions.get(span.partition)
        if state is None:
            raise not_owned(span, SINK)
        return state
