"""Kafka's part in a fenced position, in memory: held to the contract of the real one by
tests/integration/sinks/test_partner_positions.py.

What it cannot do: be away, expire offsets, notice a recreated topic.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sinks.fenced_commit import Committed, DeadLetterRecord
from sources.positions import Fenced, FlowStopped, PartitionId


@dataclass
class FakeBroker:
    """Positions by partition, letters in the order of their transactions; `log` has every transaction.

    before_commit  called with (partition, offset_next, extra) before a transaction takes effect: may raise
    """

    positions: dict[int, Committed] = field(default_factory=dict)
    owners: dict[int, object] = field(default_factory=dict)
    letters: list[DeadLetterRecord] = field(default_factory=list)
    log: list[tuple[int, int, str, int]] = field(default_factory=list)  # partition, offset_next, extra, letters
    before_commit: Callable[[int, int, str], None] = lambda partition, offset_next, extra: None
    now: float = 1_800_000_000.0  # seconds since 1970


class FakeFencedCommit:
    """sinks.fenced_commit.FencedCommit over a FakeBroker."""

    def __init__(self, broker: FakeBroker, partition: PartitionId) -> None:
        self.broker, self.partition = broker, partition.partition

    def open(self) -> Committed:
        self.broker.owners[self.partition] = self
        if self.partition not in self.broker.positions:
            raise FlowStopped("no position: python -m operations.provision")
        return self.broker.positions[self.partition]

    def commit(
        self, offset_next: int, extra: str = "", letters: Sequence[DeadLetterRecord] = (), topic: str | None = None
    ) -> None:
        if letters and topic is None:
            raise ValueError("dead letters need a topic")
        self.broker.before_commit(self.partition, offset_next, extra)
        if self.broker.owners.get(self.partition) is not self:
            raise Fenced("another process has taken over")
        self.broker.positions[self.partition] = Committed(offset_next, extra, self.broker.now)
        self.broker.letters += letters
        self.broker.log.append((self.partition, offset_next, extra, len(letters)))

    def renew(self, now: float) -> None:
        last = self.broker.positions[self.partition]
        if now - last.renewed_at > 3600:
            self.commit(last.offset_next, last.metadata)

    def close(self) -> None:
        pass
