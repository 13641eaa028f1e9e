"""Captured rows and the position behind them, in one Kafka transaction.

The position is a record on a compacted topic: unlike the offsets of a consumer group it never expires and has no
limit of size that matters.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from sinks.transactions import Record, Transactions
from sources.positions import FlowStopped


def capture_id(group: str, topic: str, slot: str) -> str:
    """The transactional.id of a capture: what fences its predecessor, and the command that marks its position."""
    return f"{group}.capture.{topic}.{slot}"


class Group(Protocol):
    """What a source hands over at once: records in order, and the position that holds when they are in Kafka."""

    @property
    def records(self) -> Sequence[tuple[bytes | None, bytes]]: ...
    @property
    def position(self) -> bytes: ...


G = TypeVar("G", bound=Group)


class StoredPosition(msgspec.Struct, frozen=True):
    """The value of the position record. `position` is JSON of the source's own making."""

    topic: str
    topic_id: str
    position: msgspec.Raw


class CaptureTopic(DynamicSink[G], Generic[G]):
    """Exactly once: a group and its position are in Kafka, whole, when `write_batch` returns, and only if no newer
    process has opened the same transactional id; otherwise Fenced.

    acknowledged  the last position that is in Kafka, None while there is none; the source confirms by it
    """

    def __init__(
        self,
        kafka: Mapping[str, str],
        transactional_id: str,
        *,
        topic: str,
        topic_id: Callable[[], str],
        positions_topic: str,
        position_key: str,
        read_positions: Callable[[], Mapping[str, bytes]],
        stopping: Callable[[], bool],
        abandon: Callable[[], object],
        ending: Callable[[str], Any],
        remedy: str,
        of_any_topic: bool = False,
        written: Callable[[int], object] = lambda records: None,
    ) -> None:
        """kafka    librdkafka properties; written: told the number of records after each transaction
        topic_id, read_positions  ask Kafka for the id of the topic, and for the last committed record of each key of
                 `positions_topic` (compacted, one partition), where the position is kept under `position_key`; both
                 wait while Kafka is away
        remedy  the command for who has to go on with another topic than the position's; of_any_topic: this is it, the
                 position then counts as none"""
        self.acknowledged: bytes | None = None
        self.ending = ending
        self._topic, self._topic_id, self._ask_topic_id = topic, "", topic_id
        self._positions_topic, self._position_key, self._read_positions = positions_topic, position_key, read_positions
        self._transactions = Transactions(kafka, transactional_id, stopping=stopping, abandon=abandon)
        self._remedy, self._of_any_topic, self._written = remedy, of_any_topic, written

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "CaptureTopicPartition[G]":
        """Opens nothing: only the worker that has the source part may fence, and it calls `open`."""
        return CaptureTopicPartition(self)

    def open(self) -> bytes | None:
        """Fence the predecessor, then read the position it left; None where there is none.

        Blocks, and says so, while Kafka is away. Raises FlowStopped where a topic is missing or was recreated."""
        self._topic_id = self._ask_topic_id()
        self._transactions.open()  # before the position is read: nobody older can move it any more
        record = self._read_positions().get(self._position_key)
        if record is None:
            return None
        stored = msgspec.json.decode(record, type=StoredPosition)
        if (stored.topic, stored.topic_id) != (self._topic, self._topic_id):
            if self._of_any_topic:
                return None
            raise FlowStopped(
                f"The capture's position belongs to topic {stored.topic} ({stored.topic_id}), but rows would now go to "
                f"{self._topic} ({self._topic_id}), which was recreated or renamed and lacks the rows sent so far. "
                f"To send what the topic lacks: {self._remedy}"
            )
        self.acknowledged = bytes(stored.position)
        return self.acknowledged

    def write(self, records: Sequence[tuple[bytes | None, bytes]], position: bytes) -> None:
        """Records and position in one transaction. Retries while Kafka is away; raises Fenced, FlowStopped."""
        stored = StoredPosition(self._topic, self._topic_id, msgspec.Raw(position))
        topic = self._topic
        self._transactions.run(
            [
                *(Record(topic, key, value) for key, value in records),
                Record(self._positions_topic, self._position_key.encode(), msgspec.json.encode(stored)),
            ]
        )
        self.acknowledged = position
        self._written(len(records))


class CaptureTopicPartition(StatelessSinkPartition[G], Generic[G]):
    """Synchronous: nothing is buffered behind `write_batch`."""

    def __init__(self, sink: CaptureTopic[G]) -> None:
        self._sink = sink

    def write_batch(self, items: list[G]) -> None:
        with self._sink.ending("writing captured rows to Kafka"):
            for group in items:
                self._sink.write(group.records, group.position)
