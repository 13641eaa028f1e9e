"""The numbers of one minute or window, by content: a matrix that grows line by line."""

import numpy as np

from engagement.totals import EVENTS, SCORE, WIDTH, Ints

# A board is decided by the first so many contents of each bucket: sinks list no more.
LISTED_MAX = 1000


class Period:
    """One minute or window: a line of nine int64 per content that has events in it.

    slot_of  int32, by content row of the partition: its line, -1 for none. Lines are consecutive.
    events   all of them together
    """

    __slots__ = ("_floor", "_floor_due", "events", "lines", "rows", "slot_of", "totals")

    def __init__(self, capacity: int = 16) -> None:
        self.slot_of = np.full(capacity, -1, dtype=np.int32)
        self.rows: Ints = np.empty(capacity, dtype=np.int64)
        self.totals: Ints = np.zeros((capacity, WIDTH), dtype=np.int64)
        self.lines = 0
        self.events = 0
        self._floor = 0
        self._floor_due = 0

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

    def events_of(self, rows: Ints) -> Ints:
        """Events of these content rows, 0 for those without a line: int64 [n]."""
        slots = np.full(len(rows), -1, dtype=np.int64)
        inside = rows < len(self.slot_of)
        slots[inside] = self.slot_of[rows[inside]]
        return np.where(slots < 0, 0, self.totals[slots, EVENTS])

    def floor(self) -> int:
        """A score that each of the first LISTED_MAX has at least; call it after an `add`.

        The LISTED_MAX-th score some events ago: scores only grow, so an old floor is merely low. Two thirds of the
        contents that a write of 10,000 events touches are below it, and the destination need not rank them.
        """
        if self.events >= self._floor_due and self.lines > LISTED_MAX:
            scores = self.totals[: self.lines, SCORE]
            self._floor = int(np.partition(scores, self.lines - LISTED_MAX)[self.lines - LISTED_MAX])
            self._floor_due = self.events + self.events // 16
        return self._floor

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

    def encode(self) -> tuple[bytes, bytes]:
        """Content rows as int32, and their totals as int32 where all fit, else int64; little-endian, joined."""
        totals = self.totals[: self.lines]
        narrow = not self.lines or int(totals.max()) < 2**31
        return (
            self.rows[: self.lines].astype("<i4").tobytes(),
            totals.astype("<i4" if narrow else "<i8", copy=False).tobytes(),
        )

    @classmethod
    def decode(cls, rows: bytes, totals: bytes) -> "Period":
        """What `encode` gave."""
        numbers = np.frombuffer(rows, dtype="<i4").astype(np.int64)
        width = len(totals) // max(1, len(numbers) * WIDTH)
        period = cls(max(1, len(numbers)))
        if len(numbers):
            period.add(numbers, np.frombuffer(totals, dtype=f"<i{width}").reshape(-1, WIDTH).astype(np.int64))
        return period
