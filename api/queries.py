"""What the API reads: the totals in Redis, partitions merged. `now_us` is an argument; Redis failures are raised."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import msgspec

from api.partition_positions import PartitionPosition, newest_us_of, stand, watermarks_of
from api.questions import Question, ask
from api.recent_events import recent_events
from api.stored_rows import homes_of, minutes_of
from api.unique_users import KeptUsers, UniqueUsers
from engagement import boards
from engagement.boards import BoardSpan
from engagement.totals import SCORE, Ints
from sinks.redis_layout import SCORES_MAX, SUMMARY, SUMMARY_FIELD, Group, PartitionKeys

UNKNOWN_AMONG_THEM = 10  # contents that PostgreSQL does not know, and no board shows

IDS_PER_SCRIPT_MAX = 1000  # Lua unpacks no more than some thousands
# KEYS hashes, ARGV fields: their values, hash by hash. Writes nothing.
FIELDS = """
local found = {}
for number, key in ipairs(KEYS) do
  found[number] = redis.call('HMGET', key, unpack(ARGV))
end
return found
"""

# KEYS boards, ARGV[1] the last place: members and scores in turn, board by board. A call of each partition, since a
# command of each bucket costs the client more than Redis.
BEST = """
local found = {}
for number, key in ipairs(KEYS) do
  found[number] = redis.call('ZREVRANGE', key, 0, ARGV[1], 'WITHSCORES')
end
return found
"""

T = TypeVar("T")
Bucket = tuple[str, int]  # (kind, start_s)


@dataclass(frozen=True, slots=True)
class First:
    """The first contents of a board: their totals, their fields, the partitions that have counted them, their events
    in each minute."""

    ids: list[str]
    totals: dict[str, Ints]
    contents: dict[str, dict[str, Any]]
    homes: dict[str, list[PartitionKeys]]
    minutes: dict[str, list[int]]


class TotalsReader:
    """Boards, contents and positions of one consumer group and topic.

    client        of sinks.redis_client.connect; may be shared by threads
    users_kept_s  for how long the users of a content, once counted, serve
    """

    def __init__(self, client: Any, layout: Group, *, lateness_seconds: int, users_kept_s: float = 0.0) -> None:
        self._client = client
        self._layout = layout
        self._lateness_seconds = lateness_seconds
        self._kept_users = KeptUsers(users_kept_s)
        self._seen: frozenset[int] = frozenset()

    def top_content(self, window: str, limit: int, now_us: int) -> dict[str, Any]:
        """The rolling or the tumbling board."""
        return self.board(window, limit, now_us)[0]

    def board(self, window: str, limit: int, now_us: int, *, places: int = 0) -> tuple[dict[str, Any], list[str]]:
        """The same, and the content ids of the first `places`, which costs less than as many rows."""
        span = self._span(window, now_us)
        found = self._first(span, max(limit, places))
        return self._rows(span, limit, now_us, found), found.ids

    def places(self, window: str, limit: int, now_us: int) -> list[str]:
        """The content ids of the board, best first."""
        return self._first(self._span(window, now_us), limit).ids

    def events_of(self, window: str, now_us: int) -> int:
        """Events on the board, those of contents that it does not show included."""
        return self._events_in(self._span(window, now_us).buckets)

    def events_of_hour(self, now_us: int) -> int:
        """Events counted in the last 60 minutes."""
        return self._events_in([("minute", minute) for minute in boards.last_minutes(now_us, 60)])

    def people(self, window: str, now_us: int) -> int | None:
        """Users of all contents together, about 1 %. None in a cluster, where no command unites those of partitions:
        a user of several would count in each."""
        if self._is_cluster:
            return None
        span = self._span(window, now_us)
        names = [keys.everybody(*bucket) for keys in self._partitions() for bucket in span.buckets]
        return int(self._client.pfcount(*names)) if names else 0

    def windows(self, count: int, now_us: int) -> list[dict[str, Any]]:
        """The last windows, oldest first. minutes: events of each, null where it is to come; null before any total."""
        length_s = self._layout.window_minutes * boards.MINUTE_S
        last_s = boards.tumbling(now_us, self._layout.window_minutes).start_s
        starts = [last_s - back * length_s for back in range(count - 1, -1, -1)]
        spans = [boards.window_at(start_s, self._layout.window_minutes) for start_s in starts]
        *summaries, positions = self._ask(
            *(self._summaries(span.buckets) for span in spans), stand(self._layout, self._numbers())
        )
        watermarks = watermarks_of(positions)
        found = []
        for span, counts in zip(spans, summaries, strict=True):
            found.append(
                {
                    "start": boards.iso(span.start_s * 1_000_000),
                    "end": boards.iso(span.end_s * 1_000_000),
                    "state": boards.window_state(span.end_s, now_us, watermarks, self._lateness_seconds),
                    "minutes": [
                        count if watermarks and minute * 1_000_000 <= now_us else None
                        for minute, (count, _) in zip(span.minutes, counts, strict=False)
                    ],
                    "events": sum(events for events, _ in counts) if watermarks else None,
                    "late": sum(late for _, late in counts),
                }
            )
        return found

    def window(self, start_us: int, limit: int, now_us: int) -> dict[str, Any] | None:
        """The board of the window that starts then, with its late count and state; None where none is kept."""
        span = boards.window_at(start_us // 1_000_000, self._layout.window_minutes)
        if span.start_s * 1_000_000 != start_us or start_us > now_us:
            return None
        if now_us > (span.end_s + boards.KEPT_S) * 1_000_000:
            return None
        board = self._rows(span, limit, now_us, self._first(span, limit))
        positions, counts = self._ask(stand(self._layout, self._numbers()), self._summaries(span.buckets))
        return {
            **board,
            "state": boards.window_state(span.end_s, now_us, watermarks_of(positions), self._lateness_seconds),
            "events": sum(events for events, _ in counts),
            "late_events": sum(late for _, late in counts),
            "minutes": [events for events, _ in counts[: len(span.minutes)]],
        }

    def stats(self, content_id: str, now_us: int) -> dict[str, Any] | None:
        """One content: its fields, both boards' numbers, its events per minute of the last hour; None: unknown."""
        return self.of_contents([content_id], [], 0, now_us)[0][0]

    def recent_events(self, content_id: str, count: int, now_us: int) -> list[dict[str, Any]] | None:
        """The newest events of the last hour, by event_ts, then offset, descending; None: unknown content."""
        return self.of_contents([], [content_id], count, now_us)[1][0]

    def of_contents(
        self, stats_of: Sequence[str], events_of: Sequence[str], count: int, now_us: int
    ) -> tuple[list[dict[str, Any] | None], list[list[dict[str, Any]] | None]]:
        """`stats` of some contents, `recent_events` of some, by one question, or two where users are to be counted.
        No content twice among either."""
        ids = list(stats_of)
        spans = (boards.rolling(now_us), boards.tumbling(now_us, self._layout.window_minutes))
        hour = boards.last_minutes(now_us, 60)
        buckets = list(dict.fromkeys([*(("minute", minute) for minute in hour), *spans[0].buckets, *spans[1].buckets]))
        partitions = self._partitions()
        contents, rows, events = self._ask(
            self._contents_of(list({*stats_of, *events_of})),
            self._fields(buckets, ids),
            recent_events(partitions, events_of, count, now_us),
        )
        homes = homes_of(ids, ids, partitions, rows)
        users = [self._users_of(span, ids, homes) for span in spans]
        if to_count := _to_count(users):
            self._ask(*to_count)
        self._unite(users)
        stats: list[dict[str, Any] | None] = []
        for place, content_id in enumerate(ids):
            if content_id not in contents:
                stats.append(None)
                continue
            held: dict[Bucket, list[bytes]] = {}
            for number, of_ids in enumerate(rows):
                if (value := of_ids[place]) is not None:
                    held.setdefault(buckets[number % len(buckets)], []).append(value)
            counts = [each.counts[place] for each in users]
            stats.append(contents[content_id] | boards.content_numbers(spans, hour, counts, held))
        return stats, [found if each in contents else None for each, found in zip(events_of, events, strict=True)]

    def contents(self, content_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The fields of those of these contents that are known."""
        return self._ask_one(self._contents_of(content_ids)) if content_ids else {}

    def positions(self) -> list[PartitionPosition]:
        """Where each Kafka partition stands."""
        return self._ask_one(stand(self._layout, self._numbers()))

    def _events_in(self, buckets: Sequence[Bucket]) -> int:
        return sum(events for events, _ in self._ask_one(self._summaries(buckets)))

    def _span(self, window: str, now_us: int) -> BoardSpan:
        return boards.rolling(now_us) if window == "rolling" else boards.tumbling(now_us, self._layout.window_minutes)

    def _rows(self, span: BoardSpan, limit: int, now_us: int, first: First) -> dict[str, Any]:
        """The board's first rows."""
        ids, totals, contents = first.ids[:limit], first.totals, first.contents
        users = self._users_of(span, ids, first.homes)
        positions, *_ = self._ask(stand(self._layout, self._numbers()), *_to_count([users]))
        self._unite([users])
        newest_us = newest_us_of(positions)
        rows = [
            {
                "rank": rank,
                "content_id": content_id,
                "content_title": contents[content_id]["content_title"],
                "content_type": contents[content_id]["content_type"],
                "content_length_seconds": contents[content_id]["content_length_seconds"],
                **boards.numbers(totals[content_id], unique_users),
                "minutes": first.minutes[content_id],
            }
            for rank, (content_id, unique_users) in enumerate(zip(ids, users.counts, strict=True), 1)
        ]
        return {
            "window": span.window,
            "start": boards.iso(span.start_s * 1_000_000),
            "end": boards.iso(span.end_s * 1_000_000),
            "as_of": boards.iso(now_us),
            "newest_event_ts": None if newest_us is None else boards.iso(newest_us),
            "age_seconds": None if newest_us is None else max(0, now_us - newest_us) / 1_000_000,
            "rows": rows,
        }

    def _first(self, span: BoardSpan, limit: int) -> First:
        """The first `limit` known contents, exactly.

        Those who may be are found from each bucket's best entries; when these cannot tell, more are listed, and in the
        end all are read.
        """
        for depth in (max(50, 2 * limit), SCORES_MAX):
            candidates, bound = self._candidates(span, depth, limit + UNKNOWN_AMONG_THEM)
            asked, partitions = sorted(candidates), self._partitions()
            rows = self._ask_one(self._fields(span.buckets, asked))
            totals = boards.added((asked, values) for values in rows)
            ids, contents = self._known(boards.ranked(totals), limit)
            if bound is None or (len(ids) == limit and int(totals[ids[-1]][SCORE]) > bound):
                break
        else:
            totals = self._all_totals(span.buckets)
            ids, contents = self._known(boards.ranked(totals), limit)
            asked, partitions = ids, self._partitions()
            rows = self._ask_one(self._fields(span.buckets, asked))
        return First(ids, totals, contents, homes_of(ids, asked, partitions, rows), minutes_of(span, ids, asked, rows))

    def _candidates(self, span: BoardSpan, depth: int, places: int) -> tuple[set[str], int | None]:
        """Content ids, and what any other may have at most; None: there is no other."""

        def put(pipeline: Any) -> None:
            for keys in self._partitions():
                names = [keys.scores(*bucket) for bucket in span.buckets]
                pipeline.execute_command("EVAL", BEST, len(names), *names, depth - 1)

        answers = self._ask_one(Question(put, list))
        lists = [list(zip(each[::2], map(float, each[1::2]), strict=True)) for answer in answers for each in answer]
        entries, bound = boards.contenders(lists, depth, places)
        return {entry.decode() for entry in entries}, bound

    def _known(self, ids: list[str], limit: int) -> tuple[list[str], dict[str, dict[str, Any]]]:
        """The first `limit` of these ids whose content is known, and their fields."""
        known: list[str] = []
        contents: dict[str, dict[str, Any]] = {}
        for first in range(0, len(ids), 2 * limit):
            part = ids[first : first + 2 * limit]
            contents |= self.contents(part)
            known += [content_id for content_id in part if content_id in contents]
            if len(known) >= limit:
                break
        return known[:limit], contents

    def _all_totals(self, buckets: Sequence[Bucket]) -> dict[str, Ints]:
        """Of every content the sums over buckets and partitions. A bucket at a time: a long window has many."""

        def question(bucket: Bucket) -> Question[list[dict[bytes, bytes]]]:
            names = [keys.totals(*bucket) for keys in self._partitions()]
            return Question(lambda pipeline: [pipeline.hgetall(name) for name in names], list)

        def stored() -> Iterator[tuple[list[str], list[bytes]]]:
            for rows in chain.from_iterable(map(self._ask_one, map(question, buckets))):
                rows.pop(SUMMARY_FIELD, None)
                yield [member.decode() for member in rows], list(rows.values())

        return boards.added(stored())

    # Questions

    def _fields(self, buckets: Sequence[Bucket], ids: list[str]) -> Question[list[list[bytes | None]]]:
        """Of each partition, of each bucket: the rows of these ids.

        Few ids of many buckets are read by one call of a partition (its keys lie in one slot): the hour of a content
        is four commands instead of 240, each of which costs the client more than Redis."""
        groups = [[keys.totals(*bucket) for bucket in buckets] for keys in self._partitions()] if ids else []
        if len(ids) > IDS_PER_SCRIPT_MAX:
            return Question(lambda pipeline: [pipeline.hmget(name, ids) for names in groups for name in names], list)

        def put(pipeline: Any) -> None:
            for names in groups:
                pipeline.execute_command("EVAL", FIELDS, len(names), *names, *ids)

        return Question(put, lambda answers: [rows for answer in answers for rows in answer])

    def _contents_of(self, content_ids: Sequence[str]) -> Question[dict[str, dict[str, Any]]]:
        def put(pipeline: Any) -> None:
            for keys in self._partitions():
                pipeline.hmget(keys.contents, list(content_ids))

        def read(answers: list[Any]) -> dict[str, dict[str, Any]]:
            return {
                content_id: msgspec.json.decode(value)
                for values in answers
                for content_id, value in zip(content_ids, values, strict=True)
                if value is not None
            }

        return Question(put, read)

    def _summaries(self, buckets: Sequence[Bucket]) -> Question[list[tuple[int, int]]]:
        """Of each bucket as a whole: (its events, events too late for it)."""
        partitions = self._partitions()

        def put(pipeline: Any) -> None:
            for bucket in buckets:
                for keys in partitions:
                    pipeline.hget(keys.totals(*bucket), SUMMARY_FIELD)

        def read(answers: list[Any]) -> list[tuple[int, int]]:
            parts = [(0, 0) if value is None else SUMMARY.unpack(value) for value in answers]
            count = len(partitions)
            of_buckets = [parts[place * count : (place + 1) * count] for place in range(len(buckets))]
            return [(sum(events for events, _ in each), sum(late for _, late in each)) for each in of_buckets]

        return Question(put, read)

    def _users_of(self, span: BoardSpan, ids: list[str], homes: Mapping[str, list[PartitionKeys]]) -> UniqueUsers:
        """Users per content. A content in several partitions: their union on one Redis, their sum in a cluster."""
        groups = [[[keys] for keys in homes[each]] if self._is_cluster else [homes[each]] for each in ids]
        return UniqueUsers(span.buckets, ids, groups, self._kept_users)

    def _unite(self, users: Sequence[UniqueUsers]) -> None:
        if mixed := [each.together() for each in users if each.mixed]:
            self._ask(*mixed)

    def _partitions(self) -> list[PartitionKeys]:
        return [self._layout.partition(partition) for partition in self._numbers()]

    def _numbers(self) -> list[int]:
        """The Kafka partitions that have totals, as of the last pipeline: the set only ever grows."""
        if not self._seen:
            self._seen = frozenset(map(int, self._client.smembers(self._layout.partitions)))
        return sorted(self._seen)

    @property
    def _is_cluster(self) -> bool:
        return hasattr(self._client, "get_nodes")

    def _ask(self, *questions: Question[Any]) -> list[Any]:
        """The answer to each, by one pipeline, which brings the partitions too."""
        members = Question(lambda pipeline: pipeline.smembers(self._layout.partitions), lambda answers: answers[0])
        found, *answers = ask(self._client, [members, *questions])
        self._seen |= frozenset(map(int, found))
        return answers

    def _ask_one(self, question: Question[T]) -> T:
        answer: T = self._ask(question)[0]
        return answer


def _to_count(users: Sequence[UniqueUsers]) -> list[Question[None]]:
    return [each.stored() for each in users if each.asked]
