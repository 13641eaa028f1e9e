"""When rows are due: a token schedule against a clock that only moves forward. No clock is read here."""

from dataclasses import dataclass

TICK_S = 0.025  # rows are written together that often: 500 at 20,000 a second
BACKLOG_S_MAX = 2.0  # what a stall may leave to catch up on; the rest is dropped from the schedule, not from the rows


@dataclass(slots=True)
class Schedule:
    """Which rows are due at `rate` rows per second since `started_s`, on the clock of the caller, in seconds.

    Late ticks are made up for, so the rate holds over any few seconds. After a stall of more than BACKLOG_S_MAX
    (PostgreSQL was away) the schedule moves on by the rest, `stalled_s`: a flood would help nobody.
    """

    rate: float
    started_s: float
    taken: int = 0
    stalled_s: float = 0.0

    def due(self, now_s: float, rows_max: int) -> int:
        """How many rows to write now, at most `rows_max`; they count as taken."""
        behind_s = now_s - self._due_at(self.taken + 1)
        if behind_s > BACKLOG_S_MAX:
            self.stalled_s += behind_s - BACKLOG_S_MAX
        rows = min(max(self._whole(now_s) - self.taken, 0), rows_max)
        self.taken += rows
        return rows

    def wait_s(self, now_s: float) -> float:
        """Seconds until it is worth asking again: the next tick, or the next row where rows are rarer than ticks."""
        waiting = self._whole(now_s) - self.taken
        if waiting >= max(self.rate * TICK_S, 1):
            return 0.0
        return max(self._due_at(self.taken + 1) - now_s, TICK_S)

    def _whole(self, now_s: float) -> int:
        return int((now_s - self.started_s - self.stalled_s) * self.rate + 1e-6)

    def _due_at(self, row: int) -> float:
        return self.started_s + self.stalled_s + row / self.rate
