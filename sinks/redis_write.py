"""What one call of redis_write.lua is given: the joined updates of one Kafka partition."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sinks.redis_layout import RECENT_MAX, RECENT_TTL_S, SCORES_MAX, SUMMARY, SUMMARY_FIELD, Group
from sources.positions import PartitionId, Span

# Updates of a partition are joined up to this many events per script, so that no call keeps Redis busy for long.
JOINED_EVENTS_MAX = 10_000
ROW_BYTES = 72


class PeriodUpdate(Protocol):
    """Rows of one minute or window: `values` are rows of 72 bytes, aligned with members and scores."""

    @property
    def kind(self) -> str: ...
    @property
    def start_s(self) -> int: ...
    @property
    def members(self) -> list[str]: ...
    @property
    def values(self) -> bytes: ...
    @property
    def scores(self) -> list[int]: ...
    @property
    def events(self) -> int: ...
    @property
    def late(self) -> int: ...


class Update(Protocol):
    """What this sink writes: the absolute values after `span`, users and recent entries to add, contents to show."""

    @property
    def span(self) -> Span: ...
    @property
    def periods(self) -> Sequence[PeriodUpdate]: ...
    @property
    def users(self) -> Sequence[tuple[Any, int, str, list[str]]]: ...
    @property
    def recent(self) -> dict[str, list[tuple[int, bytes]]]: ...
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


def script_commands(
    updates: Sequence[Update], contents: dict[str, bytes], layout: Group, span: Span
) -> tuple[list[str], list[Any]]:
    """Keys and arguments of redis_write.lua behind its first four; of a row that changed twice the newest counts."""
    keys = layout.partition(span.partition.partition)
    names = [keys.position, keys.contents]
    arguments: list[Any] = [2 * len(contents)]
    for member, fields_json in contents.items():
        arguments += (member, fields_json)
    fields = _position_fields(updates, span)
    arguments.append(2 * len(fields))
    for pair in fields.items():
        arguments += pair

    def command(name: str, key: str, ttl_s: int, keep: int, values: list[Any]) -> None:
        names.append(key)
        arguments.extend((name, len(names), ttl_s, keep, len(values), *values))

    for (kind, start_s), (rows, scores) in _rows(updates).items():
        command("HSET", keys.totals(kind, start_s), layout.ttl_s, 0, rows)
        if scores:
            command("ZADD", keys.scores(kind, start_s), layout.ttl_s, SCORES_MAX, scores)
    users: dict[tuple[str, int, str], list[str]] = {}
    recent: dict[str, list[Any]] = {}
    for update in updates:
        for kind, start_s, member, found in update.users:
            users.setdefault((kind, start_s, member), []).extend(found)
        for member, entries in update.recent.items():
            into = recent.setdefault(member, [])
            for score, entry in entries:
                into += (score, entry)
    for (kind, start_s, member), found in users.items():
        command("PFADD", keys.users(kind, start_s, member), layout.ttl_s, 0, found)
    for member, values in recent.items():
        command("ZADD", keys.recent(member), RECENT_TTL_S, RECENT_MAX, values)
    return names, arguments


def _position_fields(updates: Sequence[Update], span: Span) -> dict[str, Any]:
    fields: dict[str, Any] = {"next": span.offset_next}
    if updates:
        last = updates[-1]
        fields |= {"watermark_us": last.watermark_us, "newest_ms": last.newest_ms}
        fields |= {f"total_{name}": value for name, value in last.counters.items()}
    return fields


def _rows(updates: Sequence[Update]) -> dict[tuple[str, int], tuple[list[Any], list[Any]]]:
    """By (kind, start_s): arguments of HSET and of ZADD."""
    newest: dict[tuple[str, int], tuple[dict[Any, bytes], dict[str, int]]] = {}
    for update in updates:
        for period in update.periods:
            rows, scores = newest.setdefault((period.kind, period.start_s), ({}, {}))
            values = period.values
            for i, member in enumerate(period.members):
                rows[member] = values[i * ROW_BYTES : (i + 1) * ROW_BYTES]
            scores.update(zip(period.members, period.scores, strict=True))
            rows[SUMMARY_FIELD] = SUMMARY.pack(period.events, period.late)
    return {
        key: (
            [argument for row in rows.items() for argument in row],
            [argument for member, score in scores.items() for argument in (score, member)],
        )
        for key, (rows, scores) in newest.items()
    }
