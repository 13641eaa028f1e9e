"""Which batches a sink still needs, and whose it refuses."""

from dataclasses import dataclass

import pytest

from sinks.batches import by_partition, is_needed
from sources.positions import Fenced, PartitionId, PositionGap, Span

TOPIC = "events"


def span(offset_from: int, offset_next: int, partition: int = 0, owner: str = "me") -> Span:
    return Span(PartitionId(TOPIC, "id", partition), owner, offset_from, offset_next)


@dataclass(frozen=True)
class Covered:
    span: Span


@pytest.mark.parametrize(
    ("first", "end", "needed"),
    [(0, 5, False), (5, 5, False), (3, 6, True), (5, 9, True)],
    ids=["landed", "empty", "begins below the position", "begins at it"],
)
def test_a_batch_is_needed_from_the_position_on(first: int, end: int, needed: bool) -> None:
    assert is_needed(span(first, end), "partner", "me", 5) is needed


@pytest.mark.parametrize("end", [6, 9])
def test_a_batch_beyond_the_position_is_a_gap_also_when_it_is_empty(end: int) -> None:
    with pytest.raises(PositionGap, match="begins at offset 6, but sink partner still needs 5"):
        is_needed(span(6, end), "partner", "me", 5)


def test_a_batch_of_another_reader_is_refused_even_where_nothing_of_it_is_needed() -> None:
    with pytest.raises(Fenced, match="partition 0 of events reached sink partner"):
        is_needed(span(0, 5, owner="another"), "partner", "me", 5)


def test_batches_keep_their_order_in_their_partition() -> None:
    batches = [Covered(span(0, 2)), Covered(span(7, 9, partition=1)), Covered(span(2, 4))]
    assert [[each.span.offset_from for each in joined] for joined in by_partition(batches).values()] == [[0, 2], [7]]
