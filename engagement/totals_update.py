"""What the totals give to their destination, and what they take back from it at a start."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Kind = Literal["minute", "window"]


@dataclass(slots=True)
class PeriodUpdate:
    """What changed in a minute, or of a window among its stragglers.

    values  n rows of nine little-endian int64 (MEASURES), joined
    listed  those of the members that may be among its first LISTED_MAX, with their scores in thousandths of a point
    events  of all members so far, those that did not change included
    late    events too late for this window so far; a minute has none
    """

    kind: Kind
    start_s: int
    members: list[str]  # content ids
    values: bytes
    listed: list[tuple[int, str]]
    events: int
    late: int


@dataclass(slots=True)
class Addition:
    """What is added to that which is stored of a minute: values, one per shard, behind those that are there."""

    what: Literal["users", "recent"]
    start_s: int
    shards: list[str]  # of contents, see content_rows.py
    values: list[bytes]


@dataclass(slots=True)
class Update:
    """Everything a batch changes for readers: absolute values after `span.offset_next`, users and recent events to add.

    added           for contents with few events in a minute, see shards.py
    crowded_users   (kind, start_s, content_id, user numbers): for the others, and for stragglers
    everybody       (kind, start_s, user numbers of four bytes, joined): of all contents together
    crowded_recent  (start_s, content_id, [(event_ts_us, event)]): for the others, and in minutes that are closed
    contents        (content_id, JSON) to show from now on
    counters        numbers of the partition so far: events, late, rejected, skipped
    """

    span: Any
    periods: list[PeriodUpdate]
    contents: list[tuple[str, bytes]]
    watermark_us: int
    newest_ms: int
    counters: dict[str, int]
    events: int  # of this update
    late: int  # of this update
    added: list[Addition] = field(default_factory=list)
    crowded_users: list[tuple[Kind, int, str, list[bytes]]] = field(default_factory=list)
    everybody: list[tuple[Kind, int, bytes]] = field(default_factory=list)
    crowded_recent: list[tuple[int, str, list[tuple[int, bytes]]]] = field(default_factory=list)

    def __len__(self) -> int:
        return self.events


class StoredPeriod(Protocol):
    """What the destination holds of a minute, or of a window's stragglers."""

    @property
    def kind(self) -> str: ...
    @property
    def start_s(self) -> int: ...
    @property
    def members(self) -> list[str]: ...
    @property
    def values(self) -> bytes: ...
    @property
    def events(self) -> int: ...
    @property
    def late(self) -> int: ...


class Stored(Protocol):
    """What the destination holds of a partition; `offset_next` None: nothing."""

    @property
    def offset_next(self) -> int | None: ...
    @property
    def watermark_us(self) -> int: ...
    @property
    def newest_ms(self) -> int: ...
    @property
    def counters(self) -> dict[str, int]: ...
    @property
    def periods(self) -> Sequence[StoredPeriod]: ...
