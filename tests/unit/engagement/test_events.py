"""What an event is: every row of the input table, on both sides of each border."""

import json
from typing import Any

import pytest

from engagement.events import NESTING_MAX, Event, EventError, decode, encode
from tests.unit.engagement.micro_batches import CONTENT_ID, envelope, plain, row

UNAVAILABLE = "__debezium_unavailable_value"


def refusal(value: bytes) -> EventError:
    with pytest.raises(EventError) as caught:
        decode(value)
    return caught.value


def event(value: bytes) -> Event:
    decoded = decode(value)
    assert decoded is not None
    return decoded


def nested(levels: int) -> bytes:
    """An event whose raw_payload brings the nesting to this many levels in all."""
    return plain(raw_payload="X").replace(b'"X"', b"[" * (levels - 1) + b"]" * (levels - 1))


def test_a_whole_row_comes_through() -> None:
    assert event(plain()) == Event(
        CONTENT_ID,
        "pause",
        7,
        "user_alice_2025",
        "2025-08-10T14:30:24.123456Z",
        900_000,
        "mobile",
        event(plain()).raw_payload,
    )
    assert bytes(event(plain()).raw_payload) == b'{"a": 1}'


def test_encode_gives_what_decode_reads() -> None:
    assert encode(event(encode(event(plain())))) == encode(event(plain()))


ACCEPTED: list[tuple[str, Any]] = [
    ("content_id", None),
    ("content_id", "x"),
    ("content_id", "é" * 64),
    ("content_id", "no uuid"),
    ("event_type", "play"),
    ("event_type", "pause"),
    ("event_type", "finish"),
    ("event_type", "click"),
    ("id", None),
    ("id", 0),
    ("id", -(2**63)),
    ("id", 2**63 - 1),
    ("id", "x"),
    ("id", "😀" * 64),
    ("user_id", None),
    ("user_id", "u"),
    ("user_id", "é" * 128),
    ("duration_ms", None),
    ("duration_ms", 0),
    ("duration_ms", 86_400_000),
    ("device", None),
    ("device", ""),
    ("device", "é" * 64),
    ("event_ts", None),
]


@pytest.mark.parametrize(("field", "value"), ACCEPTED)
@pytest.mark.parametrize("spelled", [plain, envelope])
def test_accepted(spelled: Any, field: str, value: Any) -> None:
    assert getattr(event(spelled(**{field: value})), field) == value


@pytest.mark.parametrize("field", ["id", "user_id", "event_ts", "duration_ms", "device"])
@pytest.mark.parametrize("spelled", [plain, envelope])
def test_absent_is_null(spelled: Any, field: str) -> None:
    assert getattr(event(spelled(**{field: ...})), field) is None


REFUSED: list[tuple[str, Any]] = [
    ("content_id", ""),
    ("content_id", "é" * 65),
    ("content_id", 5),
    ("content_id", {}),
    ("event_type", None),
    ("event_type", "PLAY"),
    ("event_type", ""),
    ("event_type", 1),
    ("id", ""),
    ("id", "x" * 65),
    ("id", 2**63),
    ("id", -(2**63) - 1),
    ("id", 10**30),
    ("id", 1.5),
    ("id", 1.0),
    ("id", True),
    ("id", [1]),
    ("user_id", ""),
    ("user_id", "é" * 129),
    ("user_id", 5),
    ("duration_ms", -1),
    ("duration_ms", 86_400_001),
    ("duration_ms", 2**64),
    ("duration_ms", 900_000.0),
    ("duration_ms", 0.5),
    ("duration_ms", "900000"),
    ("duration_ms", False),
    ("device", "é" * 65),
    ("device", 5),
    ("event_ts", True),
    ("event_ts", 1.5),
    ("event_ts", []),
]


@pytest.mark.parametrize(("field", "value"), REFUSED)
@pytest.mark.parametrize("spelled", [plain, envelope])
def test_refused_by_the_name_of_its_field(spelled: Any, field: str, value: Any) -> None:
    error = refusal(spelled(**{field: value}))
    assert error.reason == f"wrong_{field}"
    assert error.detail.startswith(f"{field} must be ")


@pytest.mark.parametrize("number", [b"9e5", b"900000E0", b"9.0e5"])
def test_an_exponent_is_refused_for_an_integer(number: bytes) -> None:
    assert refusal(plain(duration_ms=900_000).replace(b"900000", number)).reason == "wrong_duration_ms"


@pytest.mark.parametrize("field", ["content_id", "event_type"])
@pytest.mark.parametrize("spelled", [plain, envelope])
def test_required_fields_must_be_there(spelled: Any, field: str) -> None:
    error = refusal(spelled(**{field: ...}))
    assert error.reason == f"missing_{field}"
    assert field in error.detail


def test_unknown_fields_are_ignored_whatever_they_hold() -> None:
    value = plain().replace(b"{", b'{"a_fraction": 1.5e3, "big": ' + b"9" * 40 + b', "op": "c", "deep": [[{}]], ', 1)
    assert event(value) == event(plain())


def test_of_a_repeated_field_the_last_counts() -> None:
    assert event(plain(device="first").replace(b'"first"', b'"first", "device": "last"')).device == "last"


@pytest.mark.parametrize("text", ["ABCDEF01-E89B-12D3-A456-42661417400F", "AbCdEf01-e89b-12d3-a456-42661417400f"])
@pytest.mark.parametrize("spelled", [plain, envelope])
def test_a_content_id_in_uuid_form_is_taken_in_lower_case(spelled: Any, text: str) -> None:
    assert event(spelled(content_id=text)).content_id == "abcdef01-e89b-12d3-a456-42661417400f"


@pytest.mark.parametrize("text", ["ABC", "ABCDEF01E89B12D3A45642661417400F", "GBCDEF01-E89B-12D3-A456-42661417400F"])
def test_other_content_ids_keep_their_case(text: str) -> None:
    assert event(plain(content_id=text)).content_id == text


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        (b'{"b":1, "a" : [1.50, 1e400, "\\u00e9"],"b":2}', None),
        (b"null", None),
        (b"1.0", None),
        (b'"text"', None),
        ('{"é": "😀"}'.encode(), None),
        (b"  [1 ,2]  ", b"[1 ,2]"),
    ],
)
def test_raw_payload_is_kept_byte_for_byte(raw: bytes, kept: bytes | None) -> None:
    assert bytes(event(plain(raw_payload="X").replace(b'"X"', raw)).raw_payload) == (kept or raw)


def test_raw_payload_absent_is_null() -> None:
    assert bytes(event(plain(raw_payload=...)).raw_payload) == b"null"


# Bytes that are no JSON object in UTF-8


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "not_json"),
        (b" ", "not_json"),
        (b"{", "not_json"),
        (plain()[:-1], "not_json"),
        (plain() + b"}", "not_json"),
        (plain() + b"," + plain(), "not_json"),
        (plain(device="X").replace(b'"X"', b"NaN"), "not_json"),
        (plain(device="X").replace(b'"X"', b'"\\ud800"'), "not_json"),
        (plain(raw_payload="X").replace(b'"X"', b"{1}"), "not_json"),
        (b'{"content_id": 5, broken', "not_json"),
        (b"\xef\xbb\xbf" + plain(), "byte_order_mark"),
        (plain().decode().encode("utf-16"), "not_utf8"),
        (plain(device="X").replace(b"X", b"\xff"), "not_utf8"),
        (plain(raw_payload="X").replace(b"X", b"\xed\xa0\x80"), "not_utf8"),
        (plain(ignored="X").replace(b"X", b"\xc3"), "not_utf8"),
        (b"null", "not_an_object"),
        (b"[1]", "not_an_object"),
        (b"[" + plain() + b"]", "not_an_object"),
        (b'"text"', "not_an_object"),
        (b"5", "not_an_object"),
        (b"{}", "missing_content_id"),
        (b"[" * 100_000 + b"]" * 100_000, "nested_too_deep"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested_too_deep"),
        (b"[" * 100_000, "nested_too_deep"),
    ],
    ids=str,
)
def test_refused_bytes(value: bytes, reason: str) -> None:
    assert refusal(value).reason == reason


@pytest.mark.parametrize("half", [b'"\\ud800"', b'"\\ud83dabcdefgh"', b'"\\ude00"', b'"\\ude00\\ud83d"'], ids=str)
def test_half_of_a_surrogate_pair_is_called_that(half: bytes) -> None:
    assert "surrogate pair" in refusal(plain(device="X").replace(b'"X"', half)).detail
    assert event(plain(device="X").replace(b'"X"', b'"\\ud83d\\ude00"')).device == "\U0001f600"
    assert "surrogate pair" not in refusal(plain(device="X").replace(b'"X"', b'"\\ud83d\\ude00" x')).detail


def test_nesting_up_to_the_limit_is_accepted() -> None:
    assert bytes(event(nested(NESTING_MAX)).raw_payload).startswith(b"[[[")
    assert refusal(nested(NESTING_MAX + 1)).reason == "nested_too_deep"


def test_the_nesting_limit_does_not_depend_on_who_calls() -> None:
    def decoded_below(frames: int) -> Event | None:
        return decoded_below(frames - 1) if frames else decode(nested(NESTING_MAX))

    assert decoded_below(200) is not None


def test_brackets_in_strings_are_no_nesting() -> None:
    assert event(plain(device="]" * 10, raw_payload='[{"' * 2000)).device == "]" * 10


def test_megabytes_of_strings_and_brackets_are_measured_in_one_look() -> None:
    value = plain(raw_payload=['\\"[{' * 300_000, [[]] * 1000])
    assert event(value).device == "mobile"
    assert refusal(value[:1_000_000] + b"{" * 1000).reason == "not_json"


def test_integers_of_any_length_are_refused() -> None:
    assert refusal(plain(id=7).replace(b"7", b"7" * 5000, 1)).reason == "wrong_id"
    endless = plain(duration_ms=1).replace(b'"duration_ms": 1', b'"duration_ms": 1e999')
    assert refusal(endless).reason == "wrong_duration_ms"


def test_a_long_refused_value_gives_a_short_detail() -> None:
    assert len(refusal(plain(event_type="x" * 100_000)).detail) <= 400


# Debezium


def test_envelope_and_plain_row_are_the_same_event() -> None:
    fields = {"raw_payload": {"a": 1, "b": ["x", None], "é": '"'}}
    for op in ("c", "r"):
        assert encode(event(envelope(op, **fields))) == encode(event(plain(**fields)))


def test_an_envelope_with_schema_is_the_same_event() -> None:
    with_schema = json.dumps({"schema": {"type": "struct", "fields": []}, "payload": json.loads(envelope())}).encode()
    assert encode(event(with_schema)) == encode(event(envelope()))


@pytest.mark.parametrize("op", ["u", "d", "t", "m"])
def test_what_changes_or_removes_rows_is_skipped(op: str) -> None:
    assert decode(envelope(op)) is None
    assert decode(json.dumps({"before": row(), "after": None, "op": op}).encode()) is None


def test_a_tombstone_is_skipped() -> None:
    assert decode(None) is None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b'{"op": "c", "after": null, "before": null}', "wrong_envelope"),
        (b'{"op": "c", "source": {}}', "wrong_envelope"),
        (b'{"op": "x", "after": {}}', "wrong_envelope"),
        (b'{"op": null, "after": {}}', "wrong_envelope"),
        (b'{"op": "c", "after": 5}', "not_an_object"),
        (b'{"op": "c"}', "missing_content_id"),  # no envelope: nothing but op
        (b'{"payload": {"a": 1}}', "missing_content_id"),
        (b'{"payload": null}', "missing_content_id"),
        (b'{"payload": 5, "schema": {}}', "missing_content_id"),
        (b'{"op": "c", "after": {"content_id": 5, broken', "not_json"),
    ],
)
def test_refused_envelopes(value: bytes, reason: str) -> None:
    assert refusal(value).reason == reason


@pytest.mark.parametrize("field", ["user_id", "device"])
def test_an_unavailable_text_is_null(field: str) -> None:
    assert getattr(event(envelope(**{field: UNAVAILABLE})), field) is None


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        (f'"{UNAVAILABLE}"'.encode(), b"null"),
        (b"null", b"null"),
        (b'"null"', b"null"),
        (b'"{\\"a\\": 1.50}"', b'{"a": 1.50}'),
        (b'"\\"text\\""', b'"text"'),
        (b'{"a": 1}', b'{"a": 1}'),
    ],
)
def test_raw_payload_of_an_envelope_is_unwrapped(raw: bytes, kept: bytes) -> None:
    value = envelope(raw_payload=5).replace(b'"raw_payload": "5"', b'"raw_payload": ' + raw)
    assert bytes(event(value).raw_payload) == kept


@pytest.mark.parametrize("raw", ["", "{", "{} {}", "no json", "\ufeff{}"])
def test_a_wrapped_raw_payload_must_be_json(raw: str) -> None:
    value = envelope(raw_payload=5).replace(b'"raw_payload": "5"', b'"raw_payload": ' + json.dumps(raw).encode())
    assert refusal(value).reason == "wrong_raw_payload"


@pytest.mark.parametrize("levels", [NESTING_MAX - 1, NESTING_MAX])
def test_nesting_in_a_wrapped_raw_payload_counts_as_in_a_plain_row(levels: int) -> None:
    wrapped = envelope(raw_payload=5).replace(b'"5"', json.dumps("[" * levels + "]" * levels).encode())
    plainly = nested(levels + 1)
    if levels == NESTING_MAX:
        assert refusal(wrapped).reason == refusal(plainly).reason == "nested_too_deep"
    else:
        assert event(wrapped) is not None
        assert event(plainly) is not None


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (1_754_836_224_123_456, "2025-08-10T14:30:24.123456Z"),
        (1_754_836_224_000_000, "2025-08-10T14:30:24.000000Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
    ],
)
def test_integer_microseconds_only_inside_an_envelope(microseconds: int, text: str) -> None:
    assert event(envelope(event_ts=microseconds)).event_ts == text
    assert refusal(plain(event_ts=microseconds)).reason == "wrong_event_ts"


@pytest.mark.parametrize("microseconds", [2**63 - 1, -(2**63), 10**30])
def test_integer_microseconds_beyond_the_calendar_are_refused(microseconds: int) -> None:
    assert refusal(envelope(event_ts=microseconds)).reason == "wrong_event_ts"
