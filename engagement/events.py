"""The engagement event: its fields, their limits, and the codec for plain JSON and for Debezium envelopes.

What is accepted depends on the bytes alone. The limits are those of the input table in the README; a value outside
them raises EventError with a reason code that never changes and a sentence that says what to fix.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Raw

EventType = Literal["play", "pause", "finish", "click"]
TYPE_NAMES: Final[tuple[EventType, ...]] = ("play", "pause", "finish", "click")
TYPE_CODES: Final[dict[str, int]] = {name: code for code, name in enumerate(TYPE_NAMES)}
PLAY, PAUSE, FINISH, CLICK = range(4)

DURATION_MS_MAX: Final = 86_400_000
# The decoder's own limit is Python's recursion limit less the frames in use, so it would depend on who calls.
NESTING_MAX: Final = 500
NULL: Final = b"null"

ContentId = Annotated[str, Meta(min_length=1, max_length=64)]
EventId = Annotated[str, Meta(min_length=1, max_length=64)]
BigInt = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
UserId = Annotated[str, Meta(min_length=1, max_length=128)]
DurationMs = Annotated[int, Meta(ge=0, le=DURATION_MS_MAX)]
Device = Annotated[str, Meta(max_length=64)]

_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", re.ASCII)
# Strings and all else but brackets; possessive, so that no value makes it look twice at a byte.
_NO_BRACKETS: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[^\[\]{}"]++', re.DOTALL)
_HALF_A_PAIR: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]", re.DOTALL
)
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_UNAVAILABLE: Final = "__debezium_unavailable_value"
_DETAIL_MAX: Final = 400


class Event(msgspec.Struct, gc=False):
    """One row of `engagement_events` as it came in; unknown fields are ignored, of a repeated one the last counts.

    content_id   must be there; in lower case where it has the form of a UUID
    event_ts     as written, not yet read as a time: see `engagement.parse`
    raw_payload  the bytes of any JSON value, never parsed; `null` where absent
    """

    content_id: ContentId | None
    event_type: EventType
    id: BigInt | EventId | None = None
    user_id: UserId | None = None
    event_ts: str | None = None
    duration_ms: DurationMs | None = None
    device: Device | None = None
    raw_payload: Raw = Raw(NULL)


class _CapturedRow(msgspec.Struct, gc=False):
    """The `after` of a Debezium envelope: an event whose event_ts may be integer microseconds."""

    content_id: ContentId | None
    event_type: EventType
    id: BigInt | EventId | None = None
    user_id: UserId | None = None
    event_ts: str | int | None = None
    duration_ms: DurationMs | None = None
    device: Device | None = None
    raw_payload: Raw = Raw(NULL)


class _Envelope(msgspec.Struct):
    """What tells an envelope from an event: `op` with `before`, `after` or `source`; with schemas under `payload`."""

    op: Raw = Raw()  # empty: not there; a JSON null is there
    after: Raw = Raw()
    before: Raw = Raw()
    source: Raw = Raw()
    payload: Raw = Raw()


class EventError(ValueError):
    """The record is no event. `reason` is a stable code, `detail` a sentence that says what to fix."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail if len(detail) <= _DETAIL_MAX else detail[: _DETAIL_MAX - 1] + "…"


# Fast path: a plain event whose UTF-8 and nesting have been checked. Raises DECODE_ERRORS for all else.
decode_plain: Final[Callable[[bytes], Event]] = msgspec.json.Decoder(Event).decode
# msgspec's own are ValueErrors, as is UnicodeDecodeError; TypeError: a tombstone, which is None.
DECODE_ERRORS: Final = (ValueError, TypeError, RecursionError)

_decode_row: Final = msgspec.json.Decoder(_CapturedRow).decode
_decode_envelope: Final = msgspec.json.Decoder(_Envelope).decode
_decode_text: Final = msgspec.json.Decoder(str).decode
_check_json: Final = msgspec.json.Decoder(Raw).decode
_encoder: Final = msgspec.json.Encoder()


def encode(event: Event) -> bytes:
    """The event as plain JSON; `decode` gives it back."""
    return _encoder.encode(event)


def decode(value: bytes | None) -> Event | None:
    """One Kafka value -> event; None for what is no fact: a tombstone, a Debezium update or delete.

    Raises EventError for everything else, whatever the bytes are.
    """
    if value is None:
        return None
    try:
        check_utf8(value)
        check_nesting(value)
        event = _decode(value)
    except RecursionError:
        raise _too_deep() from None
    except EventError:
        raise
    except ValueError as error:
        raise _not_json(value, error) from None
    if event is not None and event.content_id is not None:
        event.content_id = canonical_content_id(event.content_id)
    return event


def is_uuid(text: str) -> bool:
    """Whether the text has the form of a UUID: 36 characters, hexadecimal digits and four hyphens."""
    return _UUID.fullmatch(text) is not None


def canonical_content_id(text: str) -> str:
    """A UUID in lower case, so that one content has one name; any other id as it is."""
    return text.lower() if is_uuid(text) else text


def check_utf8(value: bytes) -> None:
    """Raises EventError: the decoder looks only at the strings it keeps, and destinations refuse the others."""
    try:
        str(value, "utf-8")
    except UnicodeDecodeError as error:
        raise EventError("not_utf8", f"Encode the value as UTF-8: {error.reason} at byte {error.start}.") from None


def check_nesting(value: bytes, already: int = 0) -> None:
    """Raises EventError where arrays and objects nest deeper than NESTING_MAX, `already` levels counted in."""
    allowed = NESTING_MAX - already
    if len(value) <= 2 * allowed or value.count(b"{") + value.count(b"[") <= allowed:
        return
    brackets = _NO_BRACKETS.sub(b"", value)
    if max(accumulate(1 if bracket in b"[{" else -1 for bracket in brackets), default=0) > allowed:
        raise _too_deep()


def _decode(value: bytes) -> Event | None:
    """Raises EventError, or msgspec.DecodeError where the value is no JSON."""
    try:
        return decode_plain(value)
    except msgspec.ValidationError as error:
        why = error
    envelope = _envelope(value)
    if envelope is None:
        raise _explained(why) from None
    return _captured(envelope)


def _envelope(value: bytes) -> _Envelope | None:
    """The Debezium envelope in the value, with or without schema; None where there is none."""
    try:
        found = _decode_envelope(value)
        if not bytes(found.op) and bytes(found.payload):
            found = _decode_envelope(found.payload)
    except msgspec.ValidationError:
        return None
    is_envelope = bytes(found.op) and any(map(bytes, (found.after, found.before, found.source)))
    return found if is_envelope else None


def _captured(envelope: _Envelope) -> Event | None:
    """The event of a create or a snapshot read; None for what changes or removes a row."""
    op = bytes(envelope.op)
    if op in (b'"u"', b'"d"', b'"t"', b'"m"'):
        return None
    if op not in (b'"c"', b'"r"'):
        raise EventError("wrong_envelope", f"Debezium's op must be c, r, u, d, t or m, not {op.decode()}.")
    if bytes(envelope.after) in (b"", NULL):
        raise EventError("wrong_envelope", f"A Debezium envelope with op {op.decode()} must carry the row in after.")
    try:
        row = _decode_row(envelope.after)
    except msgspec.ValidationError as error:
        raise _explained(error) from None
    return Event(
        row.content_id,
        row.event_type,
        row.id,
        _available(row.user_id),
        _from_microseconds(row.event_ts) if isinstance(row.event_ts, int) else row.event_ts,
        row.duration_ms,
        _available(row.device),
        _unwrapped(row.raw_payload),
    )


def _available(text: str | None) -> str | None:
    return None if text == _UNAVAILABLE else text


def _from_microseconds(microseconds: int) -> str:
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    except OverflowError:
        raise EventError(
            "wrong_event_ts", f"event_ts must be microseconds since 1970 in an envelope, {microseconds} is not."
        ) from None
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _unwrapped(raw: Raw) -> Raw:
    """Debezium writes JSON columns as a JSON string: the JSON in it, byte for byte; an object is kept as it is."""
    if not bytes(raw).startswith(b'"'):
        return raw
    text = _decode_text(raw)
    if text == _UNAVAILABLE:
        return Raw(NULL)
    unwrapped = text.encode()
    check_nesting(unwrapped, already=1)
    try:
        return _check_json(unwrapped)
    except ValueError as error:
        raise EventError(
            "wrong_raw_payload", f"raw_payload of an envelope must be JSON in a string: {error}."
        ) from None


_FIXES: Final = {
    "content_id": "content_id must be a string of 1 to 64 characters, or null",
    "event_type": "event_type must be play, pause, finish or click",
    "id": "id must be a 64-bit integer or a string of 1 to 64 characters, or be left out",
    "user_id": "user_id must be a string of 1 to 128 characters, or null",
    "event_ts": "event_ts must be ISO 8601 text with a zone, such as 2025-08-10T14:30:25.123456Z, or null",
    "duration_ms": f"duration_ms must be an integer from 0 to {DURATION_MS_MAX} without fraction or exponent, or null",
    "device": "device must be a string of up to 64 characters, or null",
}


def wrong(field: str, why: str) -> EventError:
    """The refusal of one field's value."""
    return EventError(f"wrong_{field}", f"{_FIXES[field]}: {why}")


def _explained(error: msgspec.ValidationError) -> EventError:
    text = str(error)
    missing = re.match(r"Object missing required field `(\w+)`", text)
    if missing:
        field = missing[1]
        return EventError(f"missing_{field}", f"{field} is missing: {_FIXES[field]}")
    where = re.search(r" - at `\$(?:\.\w+)*?\.(\w+)`$", text)
    if where and where[1] in _FIXES:
        return wrong(where[1], text[: where.start()])
    return EventError("not_an_object", f"The value must be a JSON object with the fields of an event: {text}")


def _not_json(value: bytes, error: ValueError) -> EventError:
    if value.startswith(_BYTE_ORDER_MARK):
        return EventError("byte_order_mark", "Leave out the byte order mark: JSON starts with its first character.")
    if not value:
        return EventError("not_json", "The value is empty; send a JSON object, or no value at all for a tombstone.")
    if _HALF_A_PAIR.search(value):
        return EventError(
            "not_json",
            "A \\u escape is half of a surrogate pair: write that character as two \\u escapes, or as UTF-8.",
        )
    return EventError("not_json", f"The value must be one JSON object: {error}")


def _too_deep() -> EventError:
    return EventError("nested_too_deep", f"Nest arrays and objects at most {NESTING_MAX} levels deep.")
