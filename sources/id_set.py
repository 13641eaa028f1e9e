"""A set of integer ids in little memory: ids come from a sequence, so they are kept as stretches without a gap."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

WAITING_MAX = 500_000  # ids that are not merged yet: 4 MB


class IdSet:
    """Grows, answers which ids it holds, and takes 16 bytes for each stretch: ten million rows of a sequence with some
    rolled-back inserts are a few kB; only if every second id is missing it is as large as an array of the ids."""

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self._starts: Ids = np.empty(0, np.int64)
        self._ends: Ids = np.empty(0, np.int64)  # the last id of each stretch
        self._waiting: list[Ids] = []
        self._waiting_count = 0
        self.add(np.fromiter(ids, np.int64))

    def add(self, ids: Ids) -> None:
        if ids.size:
            self._waiting.append(ids)
            self._waiting_count += ids.size
            if self._waiting_count >= WAITING_MAX:
                self._merge()

    def holds(self, ids: Ids) -> NDArray[np.bool_]:
        """For each id whether it is in the set."""
        self._merge()
        if not self._starts.size:
            return np.zeros(ids.size, np.bool_)
        at = np.searchsorted(self._starts, ids, "right") - 1
        return (at >= 0) & (ids <= self._ends[at])

    def update(self, other: "IdSet") -> None:
        """Add all that another set holds."""
        other._merge()
        self._merge(other._starts, other._ends)

    def __len__(self) -> int:
        self._merge()
        return int((self._ends - self._starts + 1).sum())

    @property
    def lowest(self) -> int | None:
        self._merge()
        return int(self._starts[0]) if self._starts.size else None

    @property
    def highest(self) -> int | None:
        self._merge()
        return int(self._ends[-1]) if self._ends.size else None

    def _merge(self, starts: Ids | None = None, ends: Ids | None = None) -> None:
        """Take in what waits, and these stretches; they may overlap."""
        if not self._waiting and starts is None:
            return
        waiting = np.unique(np.concatenate([*self._waiting, np.empty(0, np.int64)]))
        self._waiting, self._waiting_count = [], 0
        none = np.empty(0, np.int64)
        starts = np.concatenate([self._starts, waiting, none if starts is None else starts])
        ends = np.concatenate([self._ends, waiting, none if ends is None else ends])
        if not starts.size:
            return
        order = np.argsort(starts, kind="stable")
        starts, reach = starts[order], np.maximum.accumulate(ends[order])
        begins = np.append(True, starts[1:] - 1 > reach[:-1])  # a gap lies before this one
        self._starts, self._ends = starts[begins], reach[np.append(begins[1:], True)]
