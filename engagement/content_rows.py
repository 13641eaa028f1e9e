"""Contents of a Kafka partition's totals by row number, and by the tag under which several share a stored string."""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final

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


class ContentRows:
    """Ids by row number; rows are given in order of appearance."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self.ids: list[str] = list(ids)
        self._row_of = {content_id: row for row, content_id in enumerate(self.ids)}
        self._tags: Tags = np.empty(0, dtype=np.uint64)

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, content_ids: Sequence[str]) -> Integers:
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
