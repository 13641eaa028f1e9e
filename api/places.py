"""Which place a content had five minutes ago: boards that were computed then, remembered."""

from collections import deque
from typing import Any

from api.queries import TotalsReader
from api.read_process import Read
from api.stages import instant

AGO_S = 300.0
EVERY_S = 5.0  # a board is remembered
PLACES = 100  # of so many rows, and told of no others

Board = tuple[float, dict[str, int]]  # seconds since 1970, content id -> place


class Places:
    """Of the rolling board. Before it has run for five minutes the board of then is computed from the kept minutes.
    On the event loop's thread only."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._boards: deque[Board] = deque()
        self._computed: Board | None = None
        self._now: Board = (0.0, {})

    def due(self, now_us: int) -> bool:
        """Whether the board is to be remembered."""
        return now_us / 1e6 - self._now[0] >= EVERY_S

    def remember(self, now_us: int, content_ids: list[str]) -> None:
        """The board as it is now, best first."""
        now = now_us / 1e6
        self._now = now, _numbered(content_ids)
        self._boards.append(self._now)
        while len(self._boards) > 1 and now - self._boards[1][0] >= AGO_S:
            self._boards.popleft()

    async def look(self, now_us: int) -> None:
        """Read what the others below need and nobody has remembered: the board of now, the board of then."""
        now = now_us / 1e6
        if abs(now - self._now[0]) > 2 * EVERY_S:
            self.remember(now_us, await self._read(TotalsReader.places, "rolling", PLACES, now_us))
        if self._oldest(now) is None and (self._computed is None or now - self._computed[0] >= AGO_S + EVERY_S):
            then = now - AGO_S
            content_ids = await self._read(TotalsReader.places, "rolling", PLACES, round(then * 1e6))
            self._computed = then, _numbered(content_ids)

    def before(self, now_us: int) -> tuple[float | None, dict[str, int]]:
        """When the board was so (seconds since 1970), and the places then; None: there is nothing to compare with."""
        at, places = self._oldest(now_us / 1e6) or self._computed or (0.0, {})
        return (at, places) if places else (None, {})

    def of(self, content_id: str, now_us: int, comparable: bool) -> dict[str, Any]:
        """rank and rank_before of one content, null beyond the places that are remembered; compared_with null: there is
        nothing to compare with."""
        at, before = self.before(now_us) if comparable else (None, {})
        return {
            "rank": self._now[1].get(content_id),
            "rank_before": before.get(content_id),
            "compared_with": instant(at),
        }

    def _oldest(self, now: float) -> Board | None:
        """The remembered board of five minutes ago."""
        return self._boards[0] if self._boards and now - self._boards[0][0] >= AGO_S - EVERY_S else None


def _numbered(content_ids: list[str]) -> dict[str, int]:
    return {content_id: place for place, content_id in enumerate(content_ids, 1)}
