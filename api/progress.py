"""How far every sink is, and how fast: the last half minute of positions. Pure: the clock is an argument."""

from bisect import bisect_right
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from api.stages import PartitionProgress, Trend

OVER_S = 30.0  # rates and trends
TREND_AFTER_S = 5.0  # a trend needs to be seen for so long
TIMELINE_MAX = 3600

Offsets = Mapping[int, int]  # by Kafka partition


class Timeline:
    """When the offsets of one Kafka partition arrived: of each look its end, and the times of records that were read.

    A look is a second or so after the last one, so a time found here is as exact."""

    def __init__(self) -> None:
        self._ends: deque[int] = deque(maxlen=TIMELINE_MAX)
        self._times: deque[float] = deque(maxlen=TIMELINE_MAX)
        self._read: tuple[int, float] | None = None  # offset, time of the record there

    def saw_end(self, end: int, at: float) -> None:
        if not self._ends or end != self._ends[-1]:
            self._ends.append(end)
            self._times.append(at)

    def read(self, offset: int, at: float) -> None:
        """The record at (or first after) this offset arrived then."""
        self._read = offset, at

    def arrived(self, offset: int) -> float | None:
        """When the record at this offset arrived; None: before anything seen here, ask for the record itself."""
        if self._ends and offset >= self._ends[0]:
            place = bisect_right(self._ends, offset)
            return self._times[min(place, len(self._times) - 1)]
        if self._read is not None and self._read[0] == offset:
            return self._read[1]
        return None


@dataclass(frozen=True, slots=True)
class SinkProgress:
    """What the last half minute says about a sink; see api.stages.Stage. Counted in offsets."""

    partitions: list[PartitionProgress]
    waiting: int | None
    lag_s: float | None
    rate: float | None
    trend: Trend | None
    done_in_s: float | None


@dataclass(frozen=True, slots=True)
class _Look:
    at: float
    ends: Offsets
    positions: Mapping[str, Offsets]  # by sink


class Progress:
    """Remembers what was seen: `saw` once a second, then ask."""

    def __init__(self) -> None:
        self._looks: deque[_Look] = deque()
        self._timelines: dict[int, Timeline] = {}
        self._moved: dict[tuple[str, int], tuple[int | None, float]] = {}
        self._ends: deque[tuple[float, int]] = deque(maxlen=90)  # (time, end of all partitions together)

    def saw(self, at: float, ends: Offsets, positions: Mapping[str, Offsets]) -> None:
        """One look: where each partition ends, and where each sink stands in those that it has a position of."""
        self._looks.append(_Look(at, dict(ends), {sink: dict(each) for sink, each in positions.items()}))
        while at - self._looks[0].at > OVER_S:
            self._looks.popleft()
        self._ends.append((at, sum(ends.values())))
        for partition, end in ends.items():
            self._timelines.setdefault(partition, Timeline()).saw_end(end, at)
            for sink, offsets in positions.items():
                position = offsets.get(partition)
                before = self._moved.get((sink, partition))
                if before is None or before[0] != position or (position is not None and position >= end):
                    self._moved[sink, partition] = position, at

    def unknown(self) -> list[tuple[int, int]]:
        """(partition, offset) of records whose time must be read: a sink waits there since before the first look."""
        if not self._looks:
            return []
        last = self._looks[-1]
        asked = {
            (partition, position)
            for offsets in last.positions.values()
            for partition, position in offsets.items()
            if position < last.ends.get(partition, 0) and self._timelines[partition].arrived(position) is None
        }
        return sorted(asked)

    def read(self, partition: int, offset: int, at: float) -> None:
        """The time of a record that `unknown` asked for."""
        self._timelines[partition].read(offset, at)

    def of(self, sink: str, now: float) -> SinkProgress:
        """Where the sink stands, by the last look."""
        last = self._looks[-1] if self._looks else _Look(now, {}, {})
        mine = last.positions.get(sink, {})
        partitions = [self._partition(sink, each, mine.get(each), end, now) for each, end in sorted(last.ends.items())]
        known = bool(partitions) and all(each.waiting is not None for each in partitions)
        waiting = sum(each.waiting or 0 for each in partitions) if known else None
        lags = [each.lag_s for each in partitions]
        lag_s = max((lag for lag in lags if lag is not None), default=0.0) if known and None not in lags else None
        rate, rate_in = self._rate(sink), self.rate_in()
        trend = self._trend(sink)
        done_in_s = None
        if waiting and rate is not None and rate_in is not None and rate > rate_in:
            done_in_s = waiting / (rate - rate_in)
        return SinkProgress(partitions, waiting, lag_s, rate, trend, done_in_s)

    def rate_in(self) -> float | None:
        """Offsets per second that arrive in Kafka; None: not seen for long enough."""
        if len(self._looks) < 2:
            return None
        first, last = self._looks[0], self._looks[-1]
        return _per_second(first.ends, last.ends, last.at - first.at)

    def arrivals(self, seconds: int = 60) -> list[float | None]:
        """Offsets that arrived in each of the last seconds before the last look, oldest first; None: not seen."""
        if not self._ends:
            return [None] * seconds
        times = np.array([at for at, _ in self._ends])
        marks = times[-1] - np.arange(seconds, -1, -1)
        arrived = np.diff(np.interp(marks, times, [end for _, end in self._ends]))
        seen = marks[:-1] >= times[0] - 0.5  # looks do not come on the second
        return [float(count) if there else None for count, there in zip(arrived, seen, strict=True)]

    def _partition(self, sink: str, partition: int, position: int | None, end: int, now: float) -> PartitionProgress:
        unmoved_s = max(0.0, now - self._moved[sink, partition][1]) if (sink, partition) in self._moved else 0.0
        if position is None and end > 0:
            return PartitionProgress(partition, None, end, None, None, unmoved_s)
        waiting = max(0, end - (position or 0))
        if not waiting:
            return PartitionProgress(partition, position, end, 0, 0.0, 0.0)
        arrived = self._timelines[partition].arrived(position or 0)
        lag_s = None if arrived is None else max(0.0, now - arrived)
        return PartitionProgress(partition, position, end, waiting, lag_s, unmoved_s)

    def _rate(self, sink: str) -> float | None:
        seen = [look for look in self._looks if sink in look.positions]
        if len(seen) < 2:
            return None
        first, last = seen[0], seen[-1]
        return _per_second(first.positions[sink], last.positions[sink], last.at - first.at)

    def _trend(self, sink: str) -> Trend | None:
        """Whether what waits grew or shrank: the later half of the looks against the earlier."""
        waits = [
            (look.at, sum(max(0, end - look.positions[sink].get(each, 0)) for each, end in look.ends.items()))
            for look in self._looks
            if sink in look.positions
        ]
        if len(waits) < 2 or waits[-1][0] - waits[0][0] < TREND_AFTER_S:
            return None
        half = len(waits) // 2
        earlier = sum(count for _, count in waits[:half]) / half
        later = sum(count for _, count in waits[half:]) / (len(waits) - half)
        # What a second brings is no trend.
        margin = max(0.005 * earlier, self.rate_in() or 0.0, 1.0)
        return "shrinking" if later < earlier - margin else "growing" if later > earlier + margin else "steady"


class CaptureLag:
    """How far the capture is behind PostgreSQL: what it said in the last half minute. Pure, as above.

    It counts as behind by the least that it said in the last seconds: a clock that differs from PostgreSQL's makes it
    late while it reads, and on time whenever it has read everything."""

    def __init__(self) -> None:
        self._said: deque[tuple[float, float]] = deque()  # (time, seconds)

    def saw(self, at: float, lag_s: float) -> None:
        """One look."""
        self._said.append((at, lag_s))
        while at - self._said[0][0] > OVER_S:
            self._said.popleft()

    @property
    def lag_s(self) -> float | None:
        """None: nothing was said."""
        if not self._said:
            return None
        since = self._said[-1][0] - TREND_AFTER_S
        return min(lag_s for at, lag_s in self._said if at >= since)

    @property
    def trend(self) -> Trend | None:
        seconds, gained_s = self._change()
        if seconds < TREND_AFTER_S:
            return None
        return "shrinking" if gained_s > 1.0 else "growing" if gained_s < -1.0 else "steady"

    @property
    def done_in_s(self) -> float | None:
        """Seconds until it is on time, as fast as it was; None where that is never."""
        seconds, gained_s = self._change()
        return (self.lag_s or 0.0) * seconds / gained_s if gained_s > 0 else None

    def _change(self) -> tuple[float, float]:
        """Over how long, and by how much less it is behind."""
        if not self._said:
            return 0.0, 0.0
        (began, first), (ended, last) = self._said[0], self._said[-1]
        return ended - began, first - last


def _per_second(before: Offsets, after: Offsets, seconds: float) -> float | None:
    if seconds <= 0:
        return None
    moved = sum(offset - before[partition] for partition, offset in after.items() if partition in before)
    return max(0.0, moved / seconds)
