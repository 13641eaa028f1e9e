"""The contents that events are about, as columns: read once from PostgreSQL, drawn from by popularity."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

ZIPF_EXPONENT = 1.05  # a few contents have most of the events, as in any catalogue


@dataclass(frozen=True, slots=True)
class Contents:
    """The rows of `content`, ordered by id, so that one seed means one popularity on any machine.

    ids         text of the UUIDs [n]
    lengths_s   int64 [n], seconds; 0 where the content has none (newsletters)
    cumulative  float64 [n], popularity summed up to each row, ending in 1
    """

    ids: list[str]
    lengths_s: Ints
    cumulative: Floats

    @classmethod
    def of(cls, rows: Sequence[tuple[str, int | None]], rng: np.random.Generator) -> "Contents":
        """rows: (id, length in seconds or None), in any order. Which content is popular is drawn from `rng`."""
        ordered = sorted(rows)
        ranks = rng.permutation(len(ordered)) + 1
        popularity = 1.0 / ranks**ZIPF_EXPONENT
        lengths = np.array([max(length or 0, 0) for _, length in ordered], dtype=np.int64)
        return cls([text for text, _ in ordered], lengths, np.cumsum(popularity) / popularity.sum())

    def draw(self, n: int, rng: np.random.Generator) -> Ints:
        """Rows of n contents, the popular ones more often. int64 [n]."""
        return np.minimum(np.searchsorted(self.cumulative, rng.random(n)), len(self.ids) - 1).astype(np.int64)
