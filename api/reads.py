"""What routes and stream ask of the totals, computed and encoded where they are read (api/read_process.py), so that the
event loop only hands bytes on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from api.queries import TotalsReader

RECENT_MAX = 50
META = ("content_title", "content_type", "content_length_seconds")
ROW = ("content_id", "rank", "rank_before", "score", "events", "unique_users", "minutes")


@dataclass(frozen=True, slots=True)
class EncodedBoard:
    """JSON of a board: everything before its rows, and each row, so that a shorter one is joined in 2 us."""

    head: bytes
    rows: list[bytes]

    @classmethod
    def of(cls, board: Mapping[str, Any]) -> "EncodedBoard":
        """board: an object whose `rows` come last."""
        *others, last = board
        assert last == "rows", last
        head = msgspec.json.encode({name: board[name] for name in others})
        return cls(head[:-1] + b',"rows":[', [msgspec.json.encode(row) for row in board["rows"]])

    def first(self, rows: int) -> bytes:
        return self.head + b",".join(self.rows[:rows]) + b"]}"


@dataclass(frozen=True, slots=True)
class LiveBoard:
    """event: of the stream; titles: of its rows, by content id; content_ids: the first places, best first"""

    event: msgspec.Raw
    titles: dict[str, dict[str, Any]]
    content_ids: list[str]
    people: int | None


def top_content(totals: TotalsReader, window: str, rows: int, now_us: int) -> EncodedBoard:
    """`/top-content`"""
    return EncodedBoard.of(totals.top_content(window, rows, now_us))


def window(totals: TotalsReader, start_us: int, limit: int, now_us: int) -> bytes | None:
    """`/windows/{start}`; None: not kept."""
    found = totals.window(start_us, limit, now_us)
    return None if found is None else msgspec.json.encode(found)


class Wanted(NamedTuple):
    """What is asked of a content: `/content/{id}/stats`, or so many of `/content/{id}/events`."""

    content_id: str
    events: int | None = None


def contents(
    totals: TotalsReader, wanted: Sequence[Wanted], places: Mapping[str, Mapping[str, Any]], now_us: int
) -> list[bytes | None]:
    """The answer to each, None: unknown. places: what `rolling` says of a content beside its numbers"""
    stats_of = [each.content_id for each in wanted if each.events is None]
    events_of = list({each.content_id for each in wanted if each.events is not None})
    stats, events = totals.of_contents(stats_of, events_of, RECENT_MAX, now_us)
    by_id = dict(zip(stats_of, stats, strict=True))
    recent = dict(zip(events_of, events, strict=True))
    answers: list[bytes | None] = []
    for content_id, count in wanted:
        answer: Any
        if count is None:
            if (answer := by_id[content_id]) is not None:
                answer["rolling"] |= places[content_id]
        elif (answer := recent[content_id]) is not None:
            answer = {"content_id": content_id, "events": answer[:count]}
        answers.append(None if answer is None else msgspec.json.encode(answer))
    return answers


def marks(totals: TotalsReader) -> list[int | None]:
    """Positions: they change when something was counted."""
    return [position.offset_next for position in totals.positions()]


def live_board(
    totals: TotalsReader,
    window: str,
    rows: int,
    now_us: int,
    *,
    places: int,
    before: Mapping[str, int],
    compared_with: str | None,
) -> LiveBoard:
    """The stream's event `board`; before: content id -> place at `compared_with`."""
    board, content_ids = totals.board(window, rows, now_us, places=places)
    people = totals.people(window, now_us)
    shown = [{**row, "rank_before": before.get(row["content_id"])} for row in board["rows"]]
    event = {
        "window": window,
        "start": board["start"],
        "end": board["end"],
        "newest_event_ts": board["newest_event_ts"],
        "compared_with": compared_with,
        "totals": {"events": totals.events_of(window, now_us), "unique_users": people},
        "rows": [{name: row[name] for name in ROW} for row in shown],
    }
    titles = {row["content_id"]: {name: row[name] for name in META} for row in shown}
    return LiveBoard(msgspec.Raw(msgspec.json.encode(event)), titles, content_ids, people)


def live_content(totals: TotalsReader, content_id: str, place: Mapping[str, Any], now_us: int) -> msgspec.Raw:
    """The stream's event `content`: the stats with places, and the recent events. One that nobody knows says so."""
    (found,), (recent,) = totals.of_contents([content_id], [content_id], RECENT_MAX, now_us)
    event: dict[str, Any] = {"content_id": content_id, "known": False}
    if found is not None:
        found["rolling"] |= place
        event = {**found, "known": True, "recent": recent}
    return msgspec.Raw(msgspec.json.encode(event))
