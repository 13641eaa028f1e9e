"""The numbers of one minute or window, by content: a matrix that grows line by line."""

import numpy as np

from engagement.totals import EVENTS, WIDTH, Ints


class Period:
    """One minute or window: a line of nine int64 per content that has events in it.

    slot_of  int32, by content row of the partition: its line, -1 for none. Lines are consecutive.
    events   all of them together
    """

    __slots__ = ("events", "lines", "rows", "slot_of", "totals")

    def __init__(self, capacity: int = 16) -> None:
        self.slot_of = np.full(capacity, -1, dtype=np.int32)
        self.rows: Ints = np.empty(capacity, dtype=np.int64)
        self.totals: Ints = np.zeros((capacity, WIDTH), dtype=np.int64)
        self.lines = 0
        self.events = 0

    def add(self, rows: Ints, sums: Ints) -> None:
        """Add one line per content row; rows are unique."""
        self._reach(int(rows.max()) + 1)
        slots = self.slot_of[rows]
        new = slots < 0
        if new.any():
            slots[new] = self.slot_of[rows[new]] = self._grow(rows[new])
        self.totals[slots] += sums
        self.events += int(sums[:, EVENTS].sum())

    def values(self, rows: Ints) -> Ints:
        """The absolute totals of these content rows: int64 [n, 9]."""
        return self.totals[self.slot_of[rows]]

    def _reach(self, size: int) -> None:
        if size > len(self.slot_of):
            larger = np.full(max(size, 2 * len(self.slot_of)), -1, dtype=np.int32)
            larger[: len(self.slot_of)] = self.slot_of
            self.slot_of = larger

    def _grow(self, rows: Ints) -> Ints:
        lines = self.lines + len(rows)
        if lines > len(self.rows):
            capacity = max(lines, 2 * len(self.rows))
            self.rows = np.resize(self.rows, capacity)
            totals = np.zeros((capacity, WIDTH), dtype=np.int64)
            totals[: self.lines] = self.totals[: self.lines]
            self.totals = totals
        slots = np.arange(self.lines, lines, dtype=np.int64)
        self.rows[slots] = rows
        self.lines = lines
        return slots
