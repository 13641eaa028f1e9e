"""Contents of a Kafka partition's totals by row number, and by the tag under which several share a stored string."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from engagement.parse import Integers

Tags = npt.NDArray[np.uint64]

# Recent events and users of a minute lie in so many strings: a write of 10,000 events has 3,000 contents in it, and a
# value costs Redis 2 us. More make a write dearer, fewer make reading one content dearer; a user has 12 bytes, an event
# 80. The content with tag T lies in shards T modulo these.
EVENT_SHARDS: Final = 512
USER_SHARDS: Final = 64
SHARD_NAMES: Final = tuple(map(str, range(EVENT_SHARDS)))


def tag_of(content_id: str) -> int:
    """64 bits that stand for the content."""
    return int.from_bytes(blake2b(content_id.encode(), digest_size=8).digest(), "little")


def shard_of(content_id: str) -> str:
    """The name of the shard in which the content's events lie."""
    return SHARD_NAMES[tag_of(content_id) % EVENT_SHARDS]


def user_shard_of(content_id: str) -> str:
    """The name of the shard in which the content's users lie."""
    return SHARD_NAMES[tag_of(content_id) % USER_SHARDS]


class Named(Protocol):
    """Ids by number; a number never means another."""

    ids: list[str]


@dataclass(frozen=True, slots=True)
class BatchContents:
    """The distinct contents of a batch: by their number in a table of this process, then by id those it does not hold.

    Most are known by number to who adds the batch up: no id is looked at, which is what costs, 0.4 us per event. What
    is pickled on the way to another process are ids alone.
    """

    ids: list[str]
    numbers: Integers = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    table: Named | None = None

    def __reduce__(self) -> tuple[Callable[..., "BatchContents"], tuple[Any, ...]]:
        return BatchContents, (self.all_ids(),)

    def all_ids(self) -> list[str]:
        """Of those by number, then the others."""
        if self.table is None:
            return self.ids
        ids = self.table.ids
        return [ids[number] for number in self.numbers.tolist()] + self.ids


class ContentRows:
    """Ids by row number; rows are given in order of appearance."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self.ids: list[str] = list(ids)
        self._row_of = {content_id: row for row, content_id in enumerate(self.ids)}
        self._tags: Tags = np.empty(0, dtype=np.uint64)
        self._table: Named | None = None
        self._of_table: npt.NDArray[np.int32] = np.empty(0, dtype=np.int32)  # row by the table's number, -1 none yet

    def __len__(self) -> int:
        return len(self.ids)

    def rows_of(self, contents: BatchContents) -> Integers:
        """Rows of a batch's contents, in the order of its `all_ids`; new ones get one."""
        if contents.table is None:
            return self.rows(contents.ids)
        if contents.table is not self._table:
            self._table, self._of_table = contents.table, np.empty(0, dtype=np.int32)
        short = len(contents.table.ids) - len(self._of_table)
        if short > 0:
            self._of_table = np.concatenate((self._of_table, np.full(short, -1, dtype=np.int32)))
        rows = self._of_table[contents.numbers]
        missing = np.flatnonzero(rows < 0)
        if len(missing):
            numbers, ids = contents.numbers[missing], contents.table.ids
            rows[missing] = self._of_table[numbers] = self.rows([ids[number] for number in numbers.tolist()])
        return np.concatenate((rows, self.rows(contents.ids)))

    def rows(self, content_ids: Iterable[str]) -> Integers:
        """Rows of these ids; new ids get one."""
        row_of, ids = self._row_of, self.ids
        rows = []
        for content_id in content_ids:
            row = row_of.get(content_id)
            if row is None:
                row = row_of[content_id] = len(ids)
                ids.append(content_id)
            rows.append(row)
        return np.array(rows, dtype=np.int64)

    def tags(self, rows: Integers) -> Tags:
        """`tag_of` the contents of these rows: uint64 [n]."""
        missing = self.ids[len(self._tags) :]
        if missing:
            self._tags = np.concatenate((self._tags, np.array([tag_of(each) for each in missing], dtype=np.uint64)))
        return self._tags[rows]

    def only(self, live: npt.NDArray[np.bool_]) -> "ContentRows":
        """The live ones (bool by row), numbered anew in the same order."""
        kept = ContentRows([self.ids[row] for row in np.flatnonzero(live).tolist()])
        kept._tags = self._tags[live[: len(self._tags)]]
        return kept
