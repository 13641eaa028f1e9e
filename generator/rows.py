"""From what users do to rows of `engagement_events`: late arrivals, devices, payloads, and the rows that are wrong."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import msgspec
import numpy as np

from generator.contents import Contents, Flags, Floats, Ints
from generator.rhythm import DAY_S
from generator.sessions import CLICK, PLAY, USERS, SecondsOfRow, Steps, interleaved

KINDS = ("play", "pause", "finish", "click", None)  # NULL passes the CHECK of the table: poison
DEVICES = (
    "mobile",
    "web",
    "tv",
    "tablet",
    "smart-speaker",
    None,
    "Mozilla/5.0 (X11; Linux x86_64) " * 3,
)  # last: poison
DEVICE_SHARES = (0.56, 0.25, 0.08, 0.07, 0.03, 0.01)
APPS = ("5.2.0", "5.1.3", "5.1.0", "4.9.8")
NETWORKS = ("wifi", "5g", "4g", "ethernet")
TARGETS = ("share", "subscribe", "chapter", "link", "suite", "المزيد")

# Share of rows that arrive late, and by how many seconds. The last are later than ALLOWED_LATENESS_SECONDS (600).
LATENESS = ((0.05, 1.0, 15.0), (0.01, 15.0, 240.0), (0.0015, 660.0, 1_500.0))
POISONS = ("future", "ancient", "negative", "too_long", "device", "untyped")
YEAR_S = 365.25 * DAY_S


@dataclass(slots=True)
class Rows:
    """Rows of `engagement_events` as columns of one length; times in seconds from the start of the stream.

    at_s        float64, when the row is due      event_s   float64, its event_ts; before at_s when it arrives late
    content, user, duration_ms, session           int64, as in Steps
    kind        int64, of KINDS                   device    int64, of DEVICES
    noise       int64, 63 random bits from which the payload is made
    poison      int64, of POISONS; -1: a sound row
    """

    at_s: Floats
    event_s: Floats
    content: Ints
    user: Ints
    kind: Ints
    duration_ms: Ints
    device: Ints
    session: Ints
    noise: Ints
    poison: Ints

    def __len__(self) -> int:
        return len(self.at_s)

    def __getitem__(self, rows: slice) -> Self:
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def _joined(blocks: list[Rows]) -> Rows:
    return Rows(*(np.concatenate([getattr(block, field.name) for block in blocks]) for field in fields(Rows)))


class Stream:
    """The rows of one seed, in the order in which they are due. The same seed, contents, shares and `seconds_of` give
    the same rows, however many are taken at a time."""

    def __init__(
        self,
        contents: list[tuple[str, int | None]],
        seconds_of: SecondsOfRow,
        *,
        seed: int,
        poison: float = 0.0,
        late: bool = True,
        now_s: float = 0.0,
    ) -> None:
        """contents: (id, length in seconds or None). poison: share of rows that `engagement.parse` must reject.
        late: whether some rows arrive after their time. now_s: the present, in seconds from the start of the stream;
        poison from the future lies beyond it."""
        popularity, users, steps, self._noise = (
            np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4)
        )
        self.contents = Contents.of(contents, popularity)
        self.users = _user_ids(users)
        self._devices = users.choice(len(DEVICE_SHARES), USERS, p=DEVICE_SHARES).astype(np.int64)
        self._poison, self._late, self._now_s = poison, late, now_s
        self._steps = interleaved(self.contents, seconds_of, steps)
        self._blocks = self._made()
        self._rest: Rows | None = None

    def take(self, n: int) -> Rows:
        """The next n rows."""
        blocks = [self._rest if self._rest is not None else next(self._blocks)]
        held = len(blocks[0])
        while held < n:
            blocks.append(next(self._blocks))
            held += len(blocks[-1])
        rows = _joined(blocks)
        self._rest = rows[n:]
        return rows[:n]

    def _made(self) -> Iterator[Rows]:
        for steps in self._steps:
            yield self._rows(steps)

    def _rows(self, steps: Steps) -> Rows:
        rng, n = self._noise, len(steps)
        rows = Rows(
            at_s=steps.at_s,
            event_s=steps.at_s - (_lateness(n, rng) if self._late else 0.0),
            content=steps.content,
            user=steps.user,
            kind=steps.kind,
            duration_ms=steps.duration_ms,
            device=self._devices[steps.user],
            session=steps.session,
            noise=rng.integers(0, 2**62, n),
            poison=np.where(rng.random(n) < self._poison, rng.integers(0, len(POISONS), n), -1),
        )
        _spoil(rows, self._now_s, rng)
        return rows


def _lateness(n: int, rng: np.random.Generator) -> Floats:
    """Seconds between an event and its row: a moment for most, more for those of LATENESS. float64 [n]."""
    late_s = rng.exponential(0.15, n).clip(0, 1)
    draw = rng.random(n)
    for share, least, most in LATENESS:
        late_s = np.where((draw >= 0) & (draw < share), rng.uniform(least, most, n), late_s)
        draw = draw - share
    return late_s


def _spoil(rows: Rows, now_s: float, rng: np.random.Generator) -> None:
    """Make the rows marked in `poison` what PostgreSQL accepts and `engagement.parse` rejects. In place."""
    n = len(rows)

    def where(name: str) -> Flags:
        marked: Flags = rows.poison == POISONS.index(name)
        return marked

    future_s = np.maximum(rows.at_s, now_s) + rng.uniform(3_600, 2 * DAY_S, n)
    rows.event_s = np.where(where("future"), future_s, rows.event_s)
    rows.event_s = np.where(where("ancient"), rows.event_s - rng.uniform(6, 20, n) * YEAR_S, rows.event_s)
    rows.duration_ms = np.where(where("negative"), -rng.integers(2, 10**6, n), rows.duration_ms)
    rows.duration_ms = np.where(where("too_long"), rng.integers(86_400_001, 2**31 - 1, n), rows.duration_ms)
    rows.device = np.where(where("device"), len(DEVICES) - 1, rows.device)
    rows.kind = np.where(where("untyped"), len(KINDS) - 1, rows.kind)


def _user_ids(rng: np.random.Generator) -> list[str]:
    """The pool of users, as text of version 4 UUIDs."""
    raw = rng.integers(0, 256, (USERS, 16), dtype=np.uint8)
    raw[:, 6] = raw[:, 6] & 0x0F | 0x40
    raw[:, 8] = raw[:, 8] & 0x3F | 0x80
    texts = (row.tobytes().hex() for row in raw)
    return [f"{t[:8]}-{t[8:12]}-{t[12:16]}-{t[16:20]}-{t[20:]}" for t in texts]


Record = tuple[str | None, str | None, str | None, str, int | None, str | None, str | None]
"""content_id, user_id, event_type, event_ts, duration_ms, device, raw_payload: as PostgreSQL reads them."""


def records(rows: Rows, stream: Stream, start_us: int) -> Iterator[Record]:
    """The rows as tuples for COPY. start_us: the start of the stream, microseconds since 1970."""
    event_ts = np.datetime_as_string((start_us + np.round(rows.event_s * 1e6)).astype("int64").view("M8[us]"))
    ids = [*stream.contents.ids, None]  # -1: the last one
    for content, user, kind, ts, duration_ms, device, session, noise in zip(
        rows.content.tolist(),
        rows.user.tolist(),
        rows.kind.tolist(),
        event_ts.tolist(),
        rows.duration_ms.tolist(),
        rows.device.tolist(),
        rows.session.tolist(),
        rows.noise.tolist(),
        strict=True,
    ):
        yield (
            ids[content],
            stream.users[user],
            KINDS[kind],
            f"{ts}Z",
            None if duration_ms == -1 else duration_ms,
            DEVICES[device],
            payload(kind, session, noise),
        )


def payload(kind: int, session: int, noise: int) -> str | None:
    """What else the client sent, as JSON: of another shape for each kind of event, and missing from some.

    noise: 63 random bits, all that is random in it."""
    if noise >> 4 & 31 == 0:
        return None
    said: dict[str, Any] = {"session": f"s-{session:x}", "app": {"version": APPS[noise & 3]}}
    if kind == CLICK:
        said["target"] = TARGETS[(noise >> 9) % len(TARGETS)]
        said["position"] = [noise >> 20 & 1023, noise >> 30 & 1023]
    elif kind == PLAY:
        said |= {
            "network": NETWORKS[noise >> 2 & 3],
            "volume": (noise >> 9) % 101 / 100,
            "autoplay": noise >> 16 & 1 > 0,
        }
    else:
        said |= {"network": NETWORKS[noise >> 2 & 3], "speed": (2 + (noise >> 9) % 7) / 4, "dropped": None}
    return msgspec.json.encode(said).decode()
