"""ISO 8601 texts -> microseconds since 1970, a column at a time: each text by itself, whatever stands beside it."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Integers = npt.NDArray[np.int64]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TIMESTAMP: Final = pa.timestamp("us", tz="UTC")
_ISO_8601: Final = re.compile(
    r"(\d{4})(-?)(\d\d)\2(\d\d)[Tt ](\d\d)(?:(:?)(\d\d)(?:\6(\d\d)(?:[.,](\d{1,9}))?)?)?([Zz]|[+-]\d\d(?::?\d\d)?)",
    re.ASCII,
)


def microseconds(texts: Sequence[str | None]) -> tuple[Integers, list[int]]:
    """ISO 8601 texts with a zone and 0 to 9 digits of a second -> microseconds since 1970 (0 for None), cut off.

    Also the indexes of the texts that are no such time (0 there, too). One Arrow cast reads the usual spelling of all
    of them; where it refuses the column, each is spelled as Arrow takes it: same value, whatever its neighbours are.
    """
    try:
        return _cast(texts), []
    except pa.ArrowInvalid:
        spelled = [None if text is None else _spelled(text) for text in texts]
    unreadable = [index for index, text in enumerate(texts) if text is not None and spelled[index] is None]
    times = np.zeros(len(texts), np.int64)
    pending = [(0, len(spelled))]
    while pending:  # what is left to refuse is no date, such as 30 February: halve until it stands alone
        first, last = pending.pop()
        try:
            times[first:last] = _cast(spelled[first:last])
        except pa.ArrowInvalid:
            if last - first == 1:
                unreadable.append(first)
                continue
            middle = (first + last) // 2
            pending += [(first, middle), (middle, last)]
    return times, sorted(unreadable)


def _cast(texts: Sequence[str | None]) -> Integers:
    column = pa.array(texts, pa.string()).cast(_TIMESTAMP).view(pa.int64())
    times: Integers = (column.fill_null(0) if column.null_count else column).to_numpy(zero_copy_only=False)
    return times


def _spelled(text: str) -> str | None:
    """The time as Arrow reads it: separators, upper case, at most six digits; None where it is no ISO 8601."""
    found = _ISO_8601.fullmatch(text)
    if found is None:
        return None
    year, _, month, day, hour, _, minute, second, fraction, zone = found.groups()
    digits = f".{fraction[:6]}" if fraction else ""
    return f"{year}-{month}-{day}T{hour}:{minute or '00'}:{second or '00'}{digits}{zone.upper()}"


def years_before(microseconds: int, years: int) -> int:
    """The same date and time of day so many years earlier, for 29 February the 28th; microseconds since 1970."""
    moment = _EPOCH + timedelta(microseconds=microseconds)
    try:
        earlier = moment.replace(year=moment.year - years)
    except ValueError:
        earlier = moment.replace(year=moment.year - years, day=28)
    return (earlier - _EPOCH) // timedelta(microseconds=1)
