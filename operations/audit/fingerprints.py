"""What counts of an event, as 64 bits: its columns as PostgreSQL has them, the same from every system."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from engagement.events import Event
from engagement.parse import HEADER_EVENT_ID, HEADER_FOR, HEADER_KAFKA_TIMESTAMP
from engagement.times import microseconds

Prints = npt.NDArray[np.uint64]

HEADER_REPAIRS = "repairs"  # partition/offset of the record that this one stands for at its one sink
NULL_TEXT = "null"
REPLAY_HEADERS = frozenset({HEADER_FOR, HEADER_EVENT_ID, HEADER_KAFKA_TIMESTAMP})


def prints_of(rows: Sequence[tuple[Any, ...]]) -> Prints:
    """Rows of (content_id, user_id, event_type, event_ts in microseconds, duration_ms, device, raw_payload as text).

    Nulls are None, a JSON null in raw_payload too. Python's own hash: 64 bits, of this process alone."""
    return np.fromiter(map(hash, rows), np.int64, len(rows)).view(np.uint64)


def event_columns(event: Event, event_ts_us: int) -> tuple[Any, ...]:
    """The columns of a parsed event."""
    payload = str(event.raw_payload, "utf-8")
    return (
        event.content_id,
        event.user_id,
        event.event_type,
        event_ts_us,
        event.duration_ms,
        event.device,
        None if payload == NULL_TEXT else payload,
    )


class _Loose(msgspec.Struct):
    """A record that parse refused, field by field as far as it can be read; or the envelope around it."""

    id: msgspec.Raw = msgspec.Raw()
    content_id: msgspec.Raw = msgspec.Raw()
    user_id: msgspec.Raw = msgspec.Raw()
    event_type: msgspec.Raw = msgspec.Raw()
    event_ts: msgspec.Raw = msgspec.Raw()
    duration_ms: msgspec.Raw = msgspec.Raw()
    device: msgspec.Raw = msgspec.Raw()
    raw_payload: msgspec.Raw = msgspec.Raw()
    payload: msgspec.Raw = msgspec.Raw()
    after: msgspec.Raw = msgspec.Raw()


_decode_loose = msgspec.json.Decoder(_Loose).decode


def loose_columns(value: bytes | None) -> tuple[str | None, int | None, tuple[Any, ...]]:
    """(id as text, event_ts in microseconds, columns) of a record that is no event; None where it has no such field."""
    try:
        found = _decode_loose(value or b"")
        for inner in (found.payload, found.after):
            if bytes(inner).startswith(b"{"):
                found = _decode_loose(inner)
        texts = {name: _plain(getattr(found, name)) for name in _Loose.__struct_fields__[:-3]}
    except (ValueError, RecursionError):
        return None, None, (value,)
    payload = bytes(found.raw_payload).decode(errors="replace")
    event_id, at = texts["id"], texts["event_ts"]
    times, unreadable = microseconds([at if isinstance(at, str) else None])
    event_ts_us = int(times[0]) if isinstance(at, str) and not unreadable else None
    columns = (
        texts["content_id"],
        texts["user_id"],
        texts["event_type"],
        event_ts_us,
        texts["duration_ms"],
        texts["device"],
        payload if payload not in ("", NULL_TEXT) else None,
    )
    return None if event_id is None else str(event_id), event_ts_us, columns


def _plain(raw: msgspec.Raw) -> Any:
    """A string, number or null; anything else as its bytes."""
    if not bytes(raw):
        return None
    value = msgspec.json.decode(raw)
    return bytes(raw) if isinstance(value, list | dict) else value
