"""Who does what, in which order: sessions of users with contents, interleaved as on a real site. NumPy throughout.

A session is: perhaps a click, then play, pause, play, pause ..., and finish where the user stayed to the end. What
`duration_ms` says grows within a session and fits the time that passed between its events.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np

from generator.contents import Contents, Flags, Floats, Ints

PLAY, PAUSE, FINISH, CLICK = range(4)

USERS = 20_000
SESSIONS_PER_BLOCK = 1_024
SESSIONS_AT_ONCE = 20_000  # no more are kept in flight: from some 130 events/s on sessions run in fast motion
WARM_UP = 6.0  # mean sessions before the start, so that the long ones too are under way then
PAUSES = (0.55, 0.25, 0.13, 0.07)  # share of sessions with 0, 1, 2, 3 pauses before the last stretch
SHARE_FINISHED, SHARE_ABANDONED = 0.45, 0.20  # the rest ends in a pause; an abandoned one says nothing any more
SHARE_CLICK, SHARE_NO_CONTENT = 0.18, 0.003
SHARE_TOO_EARLY, SHARE_OVER_LENGTH, SHARE_DURATION_MISSING = 0.02, 0.01, 0.004
ENGAGED_S_MAX = 80_000  # below the day that `duration_ms` may say at most

SecondsOfRow = Callable[[Floats], Floats]
"""Row numbers (fractions too, below zero too) -> seconds from the start at which that row happens; increasing."""


@dataclass(slots=True)
class Steps:
    """Events in the order in which they happen, as columns of one length.

    at_s         float64, seconds from the start            content  int64 row of Contents, -1: no content
    user         int64, number in the pool                  kind     int64, PLAY PAUSE FINISH CLICK
    duration_ms  int64, engaged so far; -1: null            session  int64, number of the session
    """

    at_s: Floats
    content: Ints
    user: Ints
    kind: Ints
    duration_ms: Ints
    session: Ints

    def __len__(self) -> int:
        return len(self.at_s)

    def __getitem__(self, rows: slice | Ints) -> Self:
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def followed_by(self, other: "Steps") -> "Steps":
        return Steps(*(np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))


def interleaved(contents: Contents, seconds_of: SecondsOfRow, rng: np.random.Generator) -> Iterator[Steps]:
    """Blocks of events without end, each block and all of them together in order; row k at `seconds_of(k)`.

    A session begins at the row number that counts the events of the sessions before it, so the events of many sessions
    lie as densely as `seconds_of` asks for, whatever their shape; then each is moved to the time of its own row number,
    a shift within the noise. Sessions that began before the start are there from the first row on.
    """
    mean_s, mean_events = _mean_session(contents, np.random.default_rng(0))
    density = 1.0 / max(float(np.diff(seconds_of(np.array([0.0, 1.0])))[0]), 1e-9)
    motion = min(1.0, SESSIONS_AT_ONCE * mean_events / (density * mean_s))
    begins = -int(WARM_UP * mean_s * motion * density)
    waiting: Steps | None = None
    emitted, sessions = 0, 0
    while True:
        block, events = _sessions(contents, SESSIONS_PER_BLOCK, rng)
        first_row = (begins + np.cumsum(events) - events).astype(np.float64)
        begins += int(events.sum())
        block.at_s = np.repeat(seconds_of(first_row), events) + block.at_s * motion
        block.session += sessions
        sessions += SESSIONS_PER_BLOCK
        happening = block if waiting is None else waiting.followed_by(block)
        happening = happening[np.argsort(happening.at_s, kind="stable")]
        settled = int(np.searchsorted(happening.at_s, float(seconds_of(np.array([begins], dtype=np.float64))[0])))
        waiting, ready = happening[settled:], happening[:settled]
        ready = ready[int(np.searchsorted(ready.at_s, 0.0)) :]
        if len(ready):
            ready.at_s = seconds_of(np.arange(emitted, emitted + len(ready), dtype=np.float64))
            emitted += len(ready)
            yield ready


def _mean_session(contents: Contents, rng: np.random.Generator) -> tuple[float, float]:
    """(seconds from first to last event, events) of a typical session, from a sample."""
    sample, events = _sessions(contents, 4_096, rng)
    return float(np.mean(np.maximum.reduceat(sample.at_s, np.cumsum(events) - events))) + 1.0, float(np.mean(events))


def _sessions(contents: Contents, n: int, rng: np.random.Generator) -> tuple[Steps, Ints]:
    """n sessions one after the other, times from the beginning of each; and the number of events of each, int64 [n]."""
    content = contents.draw(n, rng)
    length_s = contents.lengths_s[content].astype(np.float64)
    reading = length_s == 0
    ending = rng.random(n)
    finished = ending < SHARE_FINISHED
    abandoned = ending > 1 - SHARE_ABANDONED
    pauses = np.where(reading, 0, np.searchsorted(np.cumsum(PAUSES)[:-1], rng.random(n)))
    clicked = (reading & (rng.random(n) < 0.8)) | (rng.random(n) < SHARE_CLICK)
    stretches = 2 * pauses + np.where(abandoned, 1, 2)
    events = (clicked + stretches).astype(np.int64)
    engaged_s = np.minimum(
        np.where(reading, rng.gamma(2.0, 45.0, n), length_s * _share_seen(finished, rng)), ENGAGED_S_MAX
    )
    content = np.where(rng.random(n) < SHARE_NO_CONTENT, -1, content)
    user = np.floor(USERS * rng.random(n) ** 1.5).astype(np.int64)

    of = np.repeat(np.arange(n), events)  # per event from here on
    step = np.arange(len(of)) - np.repeat(np.cumsum(events) - events, events) - clicked[of]
    stops = (step + 1) // 2  # stretches ended so far
    seen_s = engaged_s[of] * (stops / np.maximum((stretches[of] + 1) // 2, 1)) ** 0.8
    stopped = (step > 0) & (step % 2 == 1)
    last = step == stretches[of] - 1
    kind = np.where(step < 0, CLICK, np.where(stopped, np.where(last & finished[of], FINISH, PAUSE), PLAY))
    away_s = rng.gamma(1.5, 40.0, n)[of] * (step // 2).clip(0)
    at_s = seen_s + away_s + np.where(step < 0, 0.0, 2.0)
    told = stopped & (rng.random(len(of)) >= SHARE_DURATION_MISSING)
    duration_ms = np.where(told, np.round(seen_s * 1000), -1).astype(np.int64)
    return Steps(at_s, content[of], user[of], kind.astype(np.int64), duration_ms, of.astype(np.int64)), events


def _share_seen(finished: Flags, rng: np.random.Generator) -> Floats:
    """Share of the length that each session sees: nearly all when finished, but for some that are anomalies."""
    n = len(finished)
    odd = rng.random(n)
    full = np.where(odd < SHARE_TOO_EARLY, rng.uniform(0.1, 0.5, n), rng.uniform(0.88, 1.0, n))
    full = np.where(odd > 1 - SHARE_OVER_LENGTH, rng.uniform(1.01, 1.6, n), full)
    return np.where(finished, full, rng.beta(1.3, 2.2, n))
