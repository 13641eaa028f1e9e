"""When the sink of the dead letters writes, and what: on a position in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from sinks.dead_letters import DeadLettersSink
from sinks.fenced_commit import Committed, DeadLetterRecord
from sources.positions import Claim, Fenced, PartitionId, PositionGap, Span

PARTITION = PartitionId("events", "id", 3)


@dataclass
class Rejection:
    offset: int
    key: bytes | None = b"content"
    value: bytes | None = b"{"
    reason: str = "not_json"
    detail: str = "write JSON"
    timestamp_ms: int = 1_754_836_225_123
    target: str | None = None
    event_id: str | None = None


@dataclass
class Batch:
    span: Span
    rejected: list[Rejection] = field(default_factory=list)


@dataclass
class Memory:
    """A position as FencedCommit keeps it."""

    offset_next: int = 100
    commits: list[tuple[int, list[DeadLetterRecord]]] = field(default_factory=list)
    renewed: list[float] = field(default_factory=list)
    closed: bool = False

    def open(self) -> Committed:
        return Committed(self.offset_next, "", 0.0)

    def commit(
        self, offset_next: int, extra: str = "", letters: Sequence[DeadLetterRecord] = (), topic: str | None = None
    ) -> None:
        assert topic == "letters"
        self.commits.append((offset_next, list(letters)))

    def renew(self, now: float) -> None:
        self.renewed.append(now)

    def close(self) -> None:
        self.closed = True


class Flow:
    """The sink with clocks that the test sets."""

    def __init__(self) -> None:
        self.position = Memory()
        self.now = 1_754_836_300.25
        self.monotonic = 50.0
        self.asked_to_stop = False
        self.sink = DeadLettersSink(
            "letters",
            lambda partition: self.position,
            stopping=lambda: self.asked_to_stop,
            clock=lambda: self.now,
            monotonic=lambda: self.monotonic,
        )
        self.claim = self.sink.claim(PARTITION, "me")

    def write(
        self, *spans: tuple[int, int, Sequence[int]], owner: str = "me", partition: PartitionId = PARTITION
    ) -> None:
        self.sink.build("dead_letters", 0, 1).write_batch(
            [
                Batch(Span(partition, owner, start, end), [Rejection(offset) for offset in offsets])
                for start, end, offsets in spans
            ]
        )

    @property
    def commits(self) -> list[tuple[int, list[int]]]:
        return [
            (offset_next, [int(dict(letter.headers)["offset"]) for letter in letters])
            for offset_next, letters in self.position.commits
        ]


@pytest.fixture
def flow() -> Flow:
    return Flow()


def test_the_source_is_told_the_position(flow) -> None:
    assert flow.claim == Claim(100)


def test_letters_and_the_position_behind_their_batch_are_one_commit(flow) -> None:
    flow.write((100, 110, [103, 107]))

    assert flow.commits == [(110, [103, 107])]


def test_batches_that_waited_are_joined_into_one_commit(flow) -> None:
    flow.write((100, 110, [103]), (110, 120, []), (120, 130, [121]))

    assert flow.commits == [(130, [103, 121])]


def test_below_the_own_position_nothing_is_written_again(flow) -> None:
    flow.write((80, 90, [85]), (90, 100, [99]), (100, 110, [100]))

    assert flow.commits == [(110, [100])]


def test_a_batch_beyond_the_position_stops_the_flow_and_writes_nothing(flow) -> None:
    with pytest.raises(PositionGap, match="begins at offset 101, but sink dead_letters still needs 100"):
        flow.write((101, 110, [105]))

    assert flow.commits == []


def test_without_rejections_the_position_follows_every_few_seconds_only(flow) -> None:
    for second in range(7):
        flow.monotonic = 50.0 + second
        flow.write((100 + second, 101 + second, []))

    assert flow.commits == [(104, []), (107, [])]


def test_an_idle_partition_commits_nothing_twice_but_is_renewed(flow) -> None:
    for second in range(20):
        flow.monotonic = 50.0 + second
        flow.write((100, 100, []))

    assert flow.commits == []
    assert flow.position.renewed == [flow.now] * 20


def test_markers_alone_move_the_position(flow) -> None:
    flow.monotonic += 5
    flow.write((100, 102, []))

    assert flow.commits == [(102, [])]


def test_the_empty_batch_after_a_request_to_stop_stores_the_position_at_once(flow) -> None:
    flow.write((100, 110, []))
    assert flow.commits == []

    flow.asked_to_stop = True
    flow.write((110, 110, []))

    assert flow.commits == [(110, [])]


def test_the_end_of_the_input_stores_the_position(flow) -> None:
    flow.write((100, 110, []))
    flow.sink.build("dead_letters", 0, 1).close()

    assert flow.commits == [(110, [])]
    assert flow.position.closed


def test_another_owner_of_the_partition_is_refused(flow) -> None:
    with pytest.raises(Fenced):
        flow.write((100, 110, []), owner="another")


def test_a_partition_that_was_never_claimed_is_refused(flow) -> None:
    with pytest.raises(Fenced, match="does not own it here"):
        flow.write((100, 110, []), partition=PartitionId("events", "id", 4))


def test_a_letter_has_the_records_own_bytes_and_says_who_refused_it_where_and_why(flow) -> None:
    rejection = Rejection(103, key=None, value=b"\xff", target="partner", event_id="7")
    flow.sink.write([Batch(Span(PARTITION, "me", 100, 110), [rejection])])

    [(_, [letter])] = flow.position.commits
    assert (letter.key, letter.value) == (None, b"\xff")
    assert dict(letter.headers) == {
        "reason": b"not_json",
        "detail": b"write JSON",
        "sink": b"parse",
        "topic": b"events",
        "partition": b"3",
        "offset": b"103",
        "rejected_at": b"2025-08-10T14:31:40.250Z",
        "kafka_timestamp": b"1754836225123",
        "event_id": b"7",
        "for": b"partner",
    }


def test_one_transaction_holds_at_most_ten_thousand_letters(flow) -> None:
    flow.write((100, 9000, range(100, 9000)), (9000, 12000, range(9000, 12000)), (12000, 13000, [12001]))

    assert [(offset_next, len(letters)) for offset_next, letters in flow.commits] == [(12000, 11900), (13000, 1)]


def test_what_is_refused_shows_in_the_metrics_by_reason(flow) -> None:
    import metrics

    before = metrics.DEAD_LETTERS.labels("parse", "not_json")._value.get()
    flow.write((100, 110, [103, 107]))

    assert metrics.DEAD_LETTERS.labels("parse", "not_json")._value.get() == before + 2
