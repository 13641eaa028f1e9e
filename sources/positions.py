"""Where a reader of a Kafka partition stands, and the ways in which a flow must stop rather than guess.

Everything that remembers a Kafka partition (a snapshot, the totals, each destination) keeps `offset_next`, the first
offset it still needs; skipped records, rejected records and transaction markers are counted. Sources cut batches,
destinations keep positions, and both speak of them in these words.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class PartitionId:
    """One partition of one incarnation of a topic: a recreated topic has another `topic_id` (Kafka's own, as text)."""

    topic: str
    topic_id: str
    partition: int


@dataclass(frozen=True, slots=True)
class Span:
    """The stretch of one Kafka partition that a batch covers: every offset in [offset_from, offset_next).

    `owner` is the random token of the source part that read it: whoever writes under another token is fenced.
    """

    partition: PartitionId
    owner: str
    offset_from: int
    offset_next: int


@dataclass(frozen=True, slots=True)
class Claim:
    """What a destination answers when a source part claims a partition.

    offset_next  the first offset the destination still needs; None: it holds nothing yet and has no position
    newest_ms    Kafka timestamp of the newest record it has taken, if it knows; milliseconds since 1970
    """

    offset_next: int | None
    newest_ms: int | None = None


class Destination(Protocol):
    """A sink as the source sees it: claimed once per partition, before the first record is read."""

    name: str

    def claim(self, partition: PartitionId, owner: str) -> Claim:
        """Fence the predecessor, then read the position. Blocks, and says so, while the destination is away.

        Raises FlowStopped (a subclass) where the position is missing, belongs to another topic id, or is fenced."""


class FlowStopped(Exception):
    """The flow must not go on; the text is one sentence for the operator: what, where, what to do. Exit code 1."""


class Fenced(FlowStopped):
    """Another process has taken this partition over; this one ends and backs off a minute."""


class PositionGap(FlowStopped):
    """A batch begins beyond the offset its destination still needs, or the broker no longer has that offset."""


class LostWrites(FlowStopped):
    """A destination has forgotten writes that it had acknowledged: start again at once, from what it still knows."""
