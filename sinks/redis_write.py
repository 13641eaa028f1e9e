"""What one call of redis_write.lua is given: the joined updates of one Kafka partition."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from struct import pack
from typing import Any, Protocol

from sinks.redis_layout import RECENT_MAX, SCORES_MAX, SUMMARY, SUMMARY_FIELD, Group
from sources.positions import PartitionId, Span

# Updates of a partition are joined up to this many events per script, so that no call keeps Redis busy for long.
JOINED_EVENTS_MAX = 10_000


class PeriodUpdate(Protocol):
    """Rows of one minute or window: `values` are rows of 72 bytes, aligned with members; (score, member) to list."""

    @property
    def kind(self) -> str: ...
    @property
    def start_s(self) -> int: ...
    @property
    def members(self) -> list[str]: ...
    @property
    def values(self) -> bytes: ...
    @property
    def listed(self) -> list[tuple[int, str]]: ...
    @property
    def events(self) -> int: ...
    @property
    def late(self) -> int: ...


class Addition(Protocol):
    """Values, aligned with shards of members, to be put behind what is stored of each in that minute."""

    @property
    def what(self) -> str: ...
    @property
    def start_s(self) -> int: ...
    @property
    def shards(self) -> list[str]: ...
    @property
    def values(self) -> list[bytes]: ...


class Update(Protocol):
    """What this sink writes: the absolute values after `span`, users and recent events to add, contents to show."""

    @property
    def span(self) -> Span: ...
    @property
    def periods(self) -> Sequence[PeriodUpdate]: ...
    @property
    def added(self) -> Sequence[Addition]: ...
    @property
    def crowded_users(self) -> Sequence[tuple[Any, int, str, list[bytes]]]: ...
    @property
    def everybody(self) -> Sequence[tuple[Any, int, bytes]]: ...
    @property
    def crowded_recent(self) -> Sequence[tuple[int, str, list[tuple[int, bytes]]]]: ...
    @property
    def contents(self) -> list[tuple[str, bytes]]: ...
    @property
    def watermark_us(self) -> int: ...
    @property
    def newest_ms(self) -> int: ...
    @property
    def counters(self) -> dict[str, int]: ...
    def __len__(self) -> int: ...


@dataclass(slots=True)
class Write:
    """One script call: the joined updates of one partition, in order."""

    span: Span
    updates: list[Update]
    contents: dict[str, bytes]
    events: int

    def takes(self, update: Update, landed: bool) -> bool:
        """Whether the update continues this write, and fits."""
        continues = landed or update.span.offset_from == self.span.offset_next
        return continues and update.span.owner == self.span.owner and self.events + len(update) <= JOINED_EVENTS_MAX


def joined(updates: Iterable[Update], acknowledged: dict[tuple[PartitionId, str], int | None]) -> list[Write]:
    """Consecutive updates of a partition as one write; of those below its position only the contents are left."""
    writes: list[Write] = []
    last: dict[PartitionId, Write] = {}
    for update in updates:
        span = update.span
        position = acknowledged.get((span.partition, span.owner))
        landed = position is not None and span.offset_next <= position and span.offset_from < span.offset_next
        if landed and position is not None:
            span = Span(span.partition, span.owner, position, position)
        write = last.get(span.partition)
        if write is None or not write.takes(update, landed):
            write = last[span.partition] = Write(span, [], {}, 0)
            writes.append(write)
        if not landed:
            write.span = Span(span.partition, span.owner, write.span.offset_from, span.offset_next)
            write.updates.append(update)
            write.events += len(update)
        write.contents.update(update.contents)
    return writes


@dataclass(slots=True)
class Script:
    """Keys and arguments of redis_write.lua behind its first five."""

    keys: list[str]
    arguments: list[Any]

    def command(self, name: str, key: str, ttl_s: int, arguments: Sequence[Any], keep: int = 0) -> None:
        """One command; keep: how many members stay in the sorted set, 0 for all."""
        if arguments:
            self.keys.append(key)
            self.arguments += (name, len(self.keys), ttl_s, keep, len(arguments))
            self.arguments += arguments

    def append(self, keys: Sequence[str], ttl_s: int, values: Sequence[bytes]) -> None:
        """Each value behind what its key holds; a key expires after its first."""
        if keys:
            self.arguments += ("append", len(self.keys) + 1, ttl_s, 0, len(values), *values)
            self.keys += keys


def script(updates: Sequence[Update], contents: dict[str, bytes], layout: Group, span: Span) -> Script:
    """What the script is to write, in order: of a row that changed twice the newest stays."""
    keys, ttl_s = layout.partition(span.partition.partition), layout.ttl_s
    fields = _position_fields(updates, span)
    told = [2 * len(contents), *_flat(contents.items()), 2 * len(fields), *_flat(fields.items())]
    made = Script([keys.position, keys.contents], told)
    for update in updates:
        for period in update.periods:
            key = keys.totals(period.kind, period.start_s)
            made.command("HSET", key, ttl_s, (SUMMARY_FIELD, SUMMARY.pack(period.events, period.late)))
            made.command("rows", key, ttl_s, _rows(period))
            scores = keys.scores(period.kind, period.start_s)
            made.command("ZADD", scores, ttl_s, _flat(period.listed), SCORES_MAX)
        for added in update.added:
            key_of = keys.users if added.what == "users" else keys.recent
            made.append([key_of(added.start_s, shard) for shard in added.shards], ttl_s, added.values)
        for kind, start_s, member, users in update.crowded_users:
            made.command("PFADD", keys.crowded_users(kind, start_s, member), ttl_s, users)
        for kind, start_s, people in update.everybody:
            made.command("people", keys.everybody(kind, start_s), ttl_s, [people])
        for start_s, member, events in update.crowded_recent:
            made.command("ZADD", keys.crowded_recent(start_s, member), ttl_s, _flat(events), RECENT_MAX)
    return made


def _position_fields(updates: Sequence[Update], span: Span) -> dict[str, Any]:
    fields: dict[str, Any] = {"next": span.offset_next}
    if updates:
        last = updates[-1]
        fields |= {"watermark_us": last.watermark_us, "newest_ms": last.newest_ms}
        fields |= {f"total_{name}": value for name, value in last.counters.items()}
    return fields


def _rows(period: PeriodUpdate) -> tuple[bytes, ...]:
    """Sizes of the members' names, the names, the rows, each joined: Redis takes 5,000 names and rows out of three
    arguments in half the time that 10,000 arguments cost it."""
    if not period.members:
        return ()
    names = [member.encode() for member in period.members]
    return pack(f"<{len(names)}H", *map(len, names)), b"".join(names), period.values


def _flat(pairs: Iterable[tuple[Any, Any]]) -> list[Any]:
    return list(chain.from_iterable(pairs))
