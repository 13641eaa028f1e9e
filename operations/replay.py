"""Bringing dead letters back, each once: the record and the mark that it was replayed are one Kafka transaction."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import msgspec
import structlog

from operations.letters import Letter, Replay
from operations.terminal import waiting
from sinks.transactions import Record, Transactions
from sources.kafka_topics import Topic
from sources.position_records import Mark, read_last, replayed_key

LETTERS_PER_TRANSACTION = 200

log = structlog.get_logger()


class Replayer:
    """The only one that replays letters of a group: whoever begins later fences whoever began before.

    letters  the dead-letter topic; positions_topic: the compacted one, where the marks lie
    """

    def __init__(self, kafka: Mapping[str, str], group: str, letters: Topic, positions_topic: str) -> None:
        self._kafka, self._letters, self._positions_topic = dict(kafka), letters, positions_topic
        self._transactions = Transactions(kafka, f"{group}.dead-letters.replay")
        self._marked: set[str] = set()

    def open(self) -> None:
        """Fence, and only then read what was replayed: no mark can appear afterwards."""
        self._transactions.open()
        self.read_marks()

    def read_marks(self) -> None:
        """What was replayed until now."""
        records = read_last(self._kafka, self._positions_topic, waiting)
        self._marked = {key for key in records if key.startswith("replayed/")}

    def is_replayed(self, letter: Letter) -> bool:
        return self._key(letter) in self._marked

    def deliver(self, replays: Iterable[Replay]) -> Iterator[int]:
        """Write them, those replayed before left out; yields how many each transaction brought.

        A crash leaves whole transactions, so that the next run delivers the rest. Raises Fenced where another replay
        has begun."""
        rest = iter(replays)
        while chunk := list(islice(rest, LETTERS_PER_TRANSACTION)):
            new = [replay for replay in chunk if not self.is_replayed(replay.letter)]
            if new:
                self._transactions.run([record for replay in new for record in self._records(replay)])
                self._marked.update(self._key(replay.letter) for replay in new)
                yield len(new)

    def _records(self, replay: Replay) -> Sequence[Record]:
        mark = msgspec.json.encode(Mark(self._letters.topic_id, int(time.time() * 1000)))
        return replay.record, Record(self._positions_topic, self._key(replay.letter).encode(), mark)

    def _key(self, letter: Letter) -> str:
        return replayed_key(self._letters.topic_id, letter.partition, letter.offset)
