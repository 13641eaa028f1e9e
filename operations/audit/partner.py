"""What the partner says it holds: a file with an event id per line, or with a JSON object per line."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from engagement.times import microseconds
from operations.audit.bigquery import WITHOUT_COLUMNS
from operations.audit.problem import CouldNotLook
from operations.audit.scan import Range, event_rows
from operations.audit.spool import Rows

LINES_MAX: Final = 20_000


class _Held(msgspec.Struct):
    """One event as it was sent; without event_ts only its id is known."""

    event_id: str
    content_id: str | None = None
    user_id: str | None = None
    event_type: str | None = None
    event_ts: str | None = None
    duration_ms: int | None = None
    device: str | None = None
    raw_payload: msgspec.Raw = msgspec.Raw(b"null")


_decode: Final = msgspec.json.Decoder(_Held).decode


def partner_rows(path: Path, wanted: Range) -> Iterator[tuple[Rows, list[tuple[int, str]]]]:
    """The events of the file as fingerprints, many at a time; those outside the range, where they say so, left out.

    Raises CouldNotLook for a line that is neither an id nor such an object."""
    try:
        with path.open("rb") as file:
            number = 0
            while lines := list(islice(file, LINES_MAX)):
                yield _rows(path, number, lines, wanted)
                number += len(lines)
    except OSError as failure:
        raise CouldNotLook(f"Could not read the partner's ids from {path}: {failure.strerror}") from failure


def _rows(path: Path, first: int, lines: list[bytes], wanted: Range) -> tuple[Rows, list[tuple[int, str]]]:
    held: list[_Held] = []
    for number, line in enumerate(lines, first + 1):
        text = line.strip()
        if not text:
            continue
        try:
            held.append(_decode(text) if text.startswith(b"{") else _Held(text.decode()))
        except ValueError as wrong:
            raise CouldNotLook(f"Line {number} of {path} is neither an event id nor an event: {wrong}") from wrong
    times, _ = microseconds([each.event_ts for each in held])
    known = np.array([each.event_ts is not None for each in held], bool)
    columns: list[tuple[Any, ...]] = [
        (
            each.content_id,
            each.user_id,
            each.event_type,
            at,
            each.duration_ms,
            each.device,
            None if bytes(each.raw_payload) == b"null" else str(each.raw_payload, "utf-8"),
        )
        for each, at in zip(held, times.tolist(), strict=True)
    ]
    rows, named = event_rows([each.event_id for each in held], columns, np.where(known, 0, WITHOUT_COLUMNS))
    return rows[~known | wanted.holds(times)], named
