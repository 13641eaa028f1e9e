"""What one write of a Kafka partition tells Redis: the joined updates, as the commands of one transaction."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import chain
from typing import Any, Protocol

import numpy as np

from sinks.redis_layout import CONTENTS_TTL_S, RECENT_MAX, SCORES_MAX, SUMMARY, SUMMARY_FIELD, Group, PartitionKeys
from sources.positions import PartitionId, Span

# Updates of a partition are joined up to this many events per write, so that none keeps Redis busy for long (50 ms).
JOINED_EVENTS_MAX = 20_000
# A row of a bucket, in bytes.
ROW = np.dtype("V72")
NUMBER = np.dtype("V4")
STRINGS = resources.files("sinks").joinpath("redis_strings.lua").read_text(encoding="utf-8")


class PeriodUpdate(Protocol):
    """Rows of one bucket: `values` are rows of 72 bytes, aligned with members; (score, member) to list."""

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
    """One transaction: the joined updates of one partition, in order."""

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
class Commands:
    """What a transaction writes: commands, then the strings, sizes and lifetimes for redis_strings.lua.

    Large values go as plain commands: in a script each of 5,000 arguments is made three times over, and Redis needed
    2.3 times the CPU. Short strings go by the script: a command each costs the client 10 us.
    """

    plain: list[tuple[Any, ...]] = field(default_factory=list)
    _appended: dict[str, list[bytes]] = field(default_factory=dict)
    _kept: dict[str, int] = field(default_factory=dict)

    def put(self, name: str, key: str, arguments: Sequence[Any], keep: int = 0) -> None:
        """A command whose key then expires. keep: how many members stay in the sorted set, 0 for all."""
        if arguments:
            self.plain.append((name, key, *arguments))
            self._kept[key] = keep

    def append(self, keys: Iterable[str], values: Iterable[bytes]) -> None:
        """Each value behind what its key holds; a key expires after its first."""
        for key, value in zip(keys, values, strict=True):
            self._appended.setdefault(key, []).append(value)

    def all(self, ttl_s: int) -> list[tuple[Any, ...]]:
        """The commands in order."""
        if not self._kept and not self._appended:
            return self.plain
        keys = [*self._appended, *self._kept]
        values = [part[0] if len(part) == 1 else b"".join(part) for part in self._appended.values()]
        return [*self.plain, ("EVAL", STRINGS, len(keys), *keys, ttl_s, len(values), *values, *self._kept.values())]


def commands(write: Write, layout: Group, landed: bool) -> list[tuple[Any, ...]]:
    """What one transaction is to write: of a row that changed in several updates the newest. landed: only contents."""
    keys = layout.partition(write.span.partition.partition)
    made = Commands()
    if write.contents:
        made.plain.append(("HSET", keys.contents, *_flat(write.contents.items())))
    if landed:
        return made.plain
    made.plain.append(("EXPIRE", keys.contents, CONTENTS_TTL_S))
    made.plain.append(("HSET", keys.position, *_flat(_position_fields(write).items())))
    _periods(made, keys, write.updates)
    for update in write.updates:
        for added in update.added:
            key_of = keys.users if added.what == "users" else keys.recent
            made.append([key_of(added.start_s, shard) for shard in added.shards], added.values)
        for kind, start_s, member, users in update.crowded_users:
            made.put("PFADD", keys.crowded_users(kind, start_s, member), users)
        for kind, start_s, people in update.everybody:
            made.put("PFADD", keys.everybody(kind, start_s), np.frombuffer(people, NUMBER).tolist())
        for start_s, member, events in update.crowded_recent:
            made.put("ZADD", keys.crowded_recent(start_s, member), _flat(events), RECENT_MAX)
    return made.all(layout.ttl_s)


def _periods(made: Commands, keys: PartitionKeys, updates: Sequence[Update]) -> None:
    rows: dict[str, dict[Any, bytes]] = {}
    listed: dict[str, dict[str, int]] = {}
    for update in updates:
        for period in update.periods:
            values = rows.setdefault(keys.totals(period.kind, period.start_s), {})
            values.update(zip(period.members, np.frombuffer(period.values, ROW).tolist(), strict=True))
            values[SUMMARY_FIELD] = SUMMARY.pack(period.events, period.late)
            scores = listed.setdefault(keys.scores(period.kind, period.start_s), {})
            scores.update((member, score) for score, member in period.listed)
    for key, values in rows.items():
        made.put("HSET", key, _flat(values.items()))
    for key, scores in listed.items():
        made.put("ZADD", key, [each for member, score in scores.items() for each in (score, member)], SCORES_MAX)


def _position_fields(write: Write) -> dict[str, Any]:
    fields: dict[str, Any] = {"next": write.span.offset_next}
    if write.updates:
        last = write.updates[-1]
        fields |= {"watermark_us": last.watermark_us, "newest_ms": last.newest_ms}
        fields |= {f"total_{name}": value for name, value in last.counters.items()}
    return fields


def _flat(pairs: Iterable[tuple[Any, Any]]) -> list[Any]:
    return list(chain.from_iterable(pairs))
