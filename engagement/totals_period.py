"""The numbers of one minute or window, by content: a matrix that grows line by line."""

import numpy as np

from engagement.totals import EVENTS, WIDTH, Ints


class Period:
    """One minute or window: a line of nine int64 per content that has events in it.

    slot_of  int32, by content row of the partition: its line, -1 for none. Lines are consecutive.
    events   all of them together
    """

    __slots__ = ("_encoded", "events", "lines", "rows", "slot_of", "totals")

    def __init__(self, capacity: int = 16) -> None:
        self.slot_of = np.full(capacity, -1, dtype=np.int32)
        self.rows: Ints = np.empty(capacity, dtype=np.int64)
        self.totals: Ints = np.zeros((capacity, WIDTH), dtype=np.int64)
        self.lines = 0
        self.events = 0
        self._encoded: tuple[bytes, bytes] | None = None

    def add(self, rows: Ints, sums: Ints) -> None:
        """Add one line per content row; rows are unique."""
        self._reach(int(rows.max()) + 1)
        slots = self.slot_of[rows]
        new = slots < 0
        if new.any():
            slots[new] = self.slot_of[rows[new]] = self._grow(rows[new])
        self.totals[slots] += sums
        self._encoded = None
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

    def encode(self) -> tuple[bytes, bytes]:
        """Content rows as int32, and their totals as int32 where all fit, else int64; little-endian, joined.

        Kept until the next `add`: of the open minutes most do not change between two snapshots."""
        if self._encoded is None:
            totals = self.totals[: self.lines]
            narrow = not self.lines or int(totals.max()) < 2**31
            self._encoded = (
                self.rows[: self.lines].astype("<i4").tobytes(),
                totals.astype("<i4" if narrow else "<i8", copy=False).tobytes(),
            )
        return self._encoded

    @classmethod
    def decode(cls, rows: bytes, totals: bytes) -> "Period":
        """What `encode` gave."""
        numbers = np.frombuffer(rows, dtype="<i4").astype(np.int64)
        width = len(totals) // max(1, len(numbers) * WIDTH)
        period = cls(max(1, len(numbers)))
        if len(numbers):
            period.add(numbers, np.frombuffer(totals, dtype=f"<i{width}").reshape(-1, WIDTH).astype(np.int64))
        return period
