"""When rows happen: evenly, or with the rhythm of the day. Pure functions from row numbers to seconds."""

import numpy as np

from generator.contents import Floats
from generator.sessions import SecondsOfRow

DAY_S = 86_400.0
# Traffic of each hour of the day (UTC) against the mean: quiet before dawn, a bump at lunch, most after dinner.
HOURS = np.repeat(  # value, for that many hours from midnight on
    (0.5, 0.25, 0.16, 0.5, 0.9, 1.05, 1.2, 1.03, 1.4, 1.9, 1.45), (1, 2, 2, 2, 1, 4, 2, 3, 2, 3, 2)
)


def even(rows_per_s: float) -> SecondsOfRow:
    """A constant rate: row k after k / rate seconds."""
    return lambda rows: rows / rows_per_s


def daily(rows: int, days: int) -> SecondsOfRow:
    """`rows` rows spread over `days` whole days, from midnight, with the traffic of each hour."""
    hours = np.arange(days * 24 + 1, dtype=np.float64)
    traffic = HOURS[hours.astype(np.int64) % 24]
    seconds = hours * 3600
    share = np.concatenate([[0.0], np.cumsum((traffic[1:] + traffic[:-1]) / 2 * np.diff(seconds))])
    share *= rows / share[-1]

    def seconds_of(numbers: Floats) -> Floats:
        # Beyond both ends at the mean rate, so that the order stays strict there too.
        inside = np.interp(numbers, share, seconds)
        outside = np.minimum(numbers, 0.0) + np.maximum(numbers - rows, 0.0)
        return np.asarray(inside + outside * (days * DAY_S / rows), dtype=np.float64)

    return seconds_of
