"""Parsing a micro-batch: columns, times, headers, and that no record depends on its neighbours."""

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engagement.events import encode
from engagement.parse import Header, ParsedEvents, parse
from engagement.times import microseconds
from tests.unit.engagement.micro_batches import CONTENT_ID, KAFKA_TIME, at_ms, envelope, parsed, plain, reasons, records

DEBEZIUM = Path(__file__).parents[2] / "golden" / "debezium"
MINUTE = timedelta(minutes=1)
MICROSECOND = timedelta(microseconds=1)


def iso(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")


def same(left: ParsedEvents, right: ParsedEvents) -> bool:
    """Equal in every column, events by their JSON."""
    for field in fields(ParsedEvents):
        a, b = getattr(left, field.name), getattr(right, field.name)
        if field.name == "events":
            a, b = [encode(event) for event in a], [encode(event) for event in b]
        if isinstance(a, np.ndarray):
            a, b = a.tolist(), b.tolist()
        if a != b:
            return False
    return True


# Columns


def test_every_column_has_an_entry_per_accepted_event() -> None:
    batch = parsed(plain(), None, b"no json", envelope("d"), plain(id=...), plain(id="text", event_type="finish"))
    assert len(batch) == 3
    assert batch.offsets.tolist() == [100, 104, 105]
    assert batch.keys == [b"key 0", b"key 4", b"key 5"]
    assert batch.values == [plain(), plain(id=...), plain(id="text", event_type="finish")]
    assert batch.timestamps_ms.tolist() == [at_ms(KAFKA_TIME)] * 3
    assert [event.id for event in batch.events] == [7, None, "text"]
    assert batch.event_ids == ["7", "kafka:engagement-events-3-104", "text"]
    assert batch.event_ts_us.tolist() == [1_754_836_224_123_456] * 3
    assert batch.duration_ms.tolist() == [900_000] * 3
    assert batch.types.tolist() == [1, 1, 2]
    assert batch.targets is None
    assert batch.skipped == 2
    assert [(r.offset, r.key, r.value, r.reason, r.timestamp_ms) for r in batch.rejected] == [
        (102, b"key 2", b"no json", "not_json", at_ms(KAFKA_TIME))
    ]
    for column in (batch.offsets, batch.timestamps_ms, batch.event_ts_us, batch.duration_ms, batch.types):
        assert column.dtype == np.int64


def test_an_empty_batch_keeps_its_span() -> None:
    batch = parsed()
    assert len(batch) == 0
    assert batch.span == records([]).span
    assert batch.event_ts_us.dtype == batch.types.dtype == batch.duration_ms.dtype == np.int64


@pytest.mark.parametrize("value", [None, b"no json", envelope("u")])
def test_a_batch_without_any_event(value: bytes | None) -> None:
    batch = parsed(value, value)
    assert len(batch) == 0
    assert len(batch.rejected) + batch.skipped == 2
    assert len(batch.offsets) == len(batch.event_ts_us) == 0


def test_two_records_with_one_id_are_two_events() -> None:
    assert parsed(plain(), plain()).event_ids == ["7", "7"]


def test_null_duration_is_minus_one() -> None:
    assert parsed(plain(duration_ms=None), plain(duration_ms=0)).duration_ms.tolist() == [-1, 0]


def test_content_ids_in_uuid_form_come_in_lower_case() -> None:
    batch = parsed(plain(), plain(content_id=CONTENT_ID.upper()), plain(content_id="UPPER"), plain(content_id=None))
    assert [event.content_id for event in batch.events] == [CONTENT_ID, CONTENT_ID, "UPPER", None]


# Times


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-08-10T14:30:24Z", "14:30:24.000000"),
        ("2025-08-10 14:30:24Z", "14:30:24.000000"),
        ("2025-08-10t14:30:24z", "14:30:24.000000"),
        ("2025-08-10T14:30:24.1Z", "14:30:24.100000"),
        ("2025-08-10T14:30:24.123456Z", "14:30:24.123456"),
        ("2025-08-10T14:30:24.1234567Z", "14:30:24.123456"),
        ("2025-08-10T14:30:24.123456999Z", "14:30:24.123456"),
        ("2025-08-10T14:30:24,5Z", "14:30:24.500000"),
        ("2025-08-10T14:30:24+00:00", "14:30:24.000000"),
        ("2025-08-10T14:30:24-00:00", "14:30:24.000000"),
        ("2025-08-10T16:30:24+02:00", "14:30:24.000000"),
        ("2025-08-10T16:30:24.123456789+0200", "14:30:24.123456"),
        ("2025-08-10T16:30:24+02", "14:30:24.000000"),
        ("2025-08-10T09:00:24.5-05:30", "14:30:24.500000"),
        ("20250810T143024Z", "14:30:24.000000"),
        ("20250810T143024.123456789+0000", "14:30:24.123456"),
        ("2025-08-10T14:30Z", "14:30:00.000000"),
        ("2025-08-10T14Z", "14:00:00.000000"),
    ],
)
def test_spellings_of_a_time(text: str, expected: str) -> None:
    batch = parsed(plain(event_ts=text))
    assert not batch.rejected
    moment = datetime(1970, 1, 1) + int(batch.event_ts_us[0]) * MICROSECOND
    assert moment.isoformat(timespec="microseconds") == f"2025-08-10T{expected}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2025-08-10",
        "2025-08-10Z",
        "2025-08-10T14:30:24",
        "2025-08-10T14:30:24.Z",
        "2025-08-10T14:30:24.1234567891Z",
        "2025-08-10T14:30:24 Z",
        " 2025-08-10T14:30:24Z",
        "2025-08-10T14:30:24Z\n",
        "2025-08-10T14:30:24Z\x00",
        "2025-08-10T14:30:24+2",
        "2025-08-10T14:30:24+24:00",
        "2025-08-10T14:30:24+02:60",
        "2025-08-10T14:30:60Z",
        "2025-08-10T24:00:00Z",
        "2025-02-30T14:30:24Z",
        "2025-13-01T14:30:24Z",
        "2025-8-10T14:30:24Z",
        "20250810T14:30:24.Z",
        "202508-10T14:30:24Z",
        "2025-08-10x14:30:24Z",
        "２０２５-08-10T14:30:24Z",
        "1754836224",
        "1754836224123456",
        "2025-08-10T14:30:24[Europe/Paris]",
        "x" * 100_000,
    ],
)
def test_no_time_is_refused_alone(text: str) -> None:
    batch = parsed(plain(), plain(event_ts=text), plain(event_ts="2025-08-10T14:30:24.123456789Z"))
    assert reasons(batch) == ["wrong_event_ts"]
    assert "event_ts must be ISO 8601" in batch.rejected[0].detail
    assert batch.event_ts_us.tolist() == [1_754_836_224_123_456] * 2


@pytest.mark.parametrize("missing", [None, ...])
@pytest.mark.parametrize("other", ["2025-08-10T14:30:24Z", "2025-08-10T14:30:24.123456789Z", "no time"])
def test_without_event_ts_the_kafka_timestamp_counts(missing: Any, other: str) -> None:
    batch = parsed(plain(event_ts=missing), plain(event_ts=other))
    assert batch.event_ts_us[0] == at_ms(KAFKA_TIME) * 1000


@pytest.mark.parametrize("spelled", [plain, envelope])
def test_five_minutes_after_the_kafka_timestamp_is_the_border(spelled: Any) -> None:
    border = datetime.fromisoformat(KAFKA_TIME) + 5 * MINUTE
    batch = parsed(spelled(event_ts=iso(border)), spelled(event_ts=iso(border + MICROSECOND)))
    assert batch.offsets.tolist() == [100]
    assert reasons(batch) == ["event_ts_in_future"]
    assert "5 minutes" in batch.rejected[0].detail


@pytest.mark.parametrize(
    ("at", "border"),
    [
        ("2025-08-10T14:30:25.678Z", "2020-08-10T14:30:25.678Z"),
        ("2024-02-29T12:00:00Z", "2019-02-28T12:00:00Z"),
        ("2025-03-01T00:00:00Z", "2020-03-01T00:00:00Z"),
        ("2101-03-01T00:00:00Z", "2096-03-01T00:00:00Z"),
    ],
)
def test_five_calendar_years_before_the_kafka_timestamp_is_the_border(at: str, border: str) -> None:
    oldest = datetime.fromisoformat(border)
    batch = parsed(plain(event_ts=iso(oldest)), plain(event_ts=iso(oldest - MICROSECOND)), at=at)
    assert batch.offsets.tolist() == [100]
    assert reasons(batch) == ["event_ts_too_old"]
    assert "5 years" in batch.rejected[0].detail


@pytest.mark.parametrize("timestamp_ms", [-1, -(2**62), 2**62, 253_402_300_800_000])
def test_a_record_without_usable_kafka_timestamp_is_refused(timestamp_ms: int) -> None:
    assert reasons(parsed(plain(), plain(event_ts=None), at=timestamp_ms)) == ["wrong_kafka_timestamp"] * 2


@pytest.mark.parametrize("timestamp_ms", [0, 253_402_300_799_999])
def test_the_kafka_timestamp_may_be_any_other(timestamp_ms: int) -> None:
    assert parsed(plain(event_ts=None), at=timestamp_ms).event_ts_us.tolist() == [timestamp_ms * 1000]


TIMES = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))
SPELLINGS = st.sampled_from(["", "%s", "%s0", "%s000", " ", "T", "Z", "z", "+02:00", "+23:59", "-0530", "+01"])


@given(st.lists(st.one_of(st.none(), st.text(max_size=30), st.tuples(TIMES, SPELLINGS, SPELLINGS)), max_size=8))
def test_a_time_is_read_alike_whatever_stands_beside_it(parts: Sequence[Any]) -> None:
    texts = [part if not isinstance(part, tuple) else spelled(*part) for part in parts]
    together, unreadable = microseconds(texts)
    for index, text in enumerate(texts):
        alone, refused = microseconds([text])
        assert alone[0] == together[index]
        assert bool(refused) == (index in unreadable)


def spelled(moment: datetime, digits: str, zone: str) -> str:
    text = moment.replace(tzinfo=None).isoformat(timespec="microseconds" if "%" in digits else "seconds")
    return (digits % text if "%" in digits else text) + zone


@given(TIMES, st.integers(0, 9), st.integers(-1439, 1439))
def test_a_time_is_the_one_python_reads(moment: datetime, digits: int, offset_minutes: int) -> None:
    sign, minutes = "-" if offset_minutes < 0 else "+", abs(offset_minutes)
    fraction = f"{moment.microsecond:06}789"[:digits]
    text = moment.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0") + (f".{fraction}" if digits else "")
    text += f"{sign}{minutes // 60:02}:{minutes % 60:02}"
    times, unreadable = microseconds([text, "no time"])
    cut = moment.replace(microsecond=int(fraction[:6].ljust(6, "0")))
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert unreadable == [1]
    assert times[0] == (cut - epoch) // MICROSECOND - offset_minutes * 60_000_000


# Headers of replayed dead letters


def replayed(*headers: Header, value: bytes | None = None) -> ParsedEvents:
    return parsed(plain(), plain() if value is None else value, headers=[None, list(headers)])


def test_headers_of_a_replayed_dead_letter_are_taken_over() -> None:
    original = at_ms("2025-08-10T14:30:20.5Z")
    batch = replayed(
        ("for", b"partner"), ("event_id", b"kafka:engagement-events-0-5"), ("kafka_timestamp", str(original).encode())
    )
    assert batch.targets == [None, "partner"]
    assert batch.event_ids == ["7", "kafka:engagement-events-0-5"]
    assert batch.timestamps_ms.tolist() == [at_ms(KAFKA_TIME), original]
    assert batch.event_ts_us.tolist() == [1_754_836_224_123_456] * 2


def test_a_header_never_changes_the_batch_it_came_in() -> None:
    given_records = records([plain()], headers=[[("kafka_timestamp", str(at_ms("2025-08-10T14:30:20Z")).encode())]])
    parse(given_records)
    assert given_records.timestamps_ms.tolist() == [at_ms(KAFKA_TIME)]


def test_limits_are_measured_against_the_original_kafka_timestamp() -> None:
    at = str(at_ms("2019-08-10T14:30:25Z")).encode()
    batch = replayed(("kafka_timestamp", at), value=plain(event_ts="2019-08-10T14:30:00Z"))
    assert not batch.rejected
    assert reasons(replayed(("kafka_timestamp", at))) == ["event_ts_in_future"]
    assert replayed(("kafka_timestamp", at), value=plain(event_ts=None)).event_ts_us[1] == int(at) * 1000


def test_headers_of_others_do_not_matter() -> None:
    batch = replayed(("__debezium.context.taskId", b"0"), ("For", b"x"), ("traceparent", None))
    assert same(batch, parsed(plain(), plain()))


def test_of_a_repeated_header_the_last_counts() -> None:
    assert replayed(("for", b"x"), ("for", b"bigquery")).targets == [None, "bigquery"]


@pytest.mark.parametrize(
    "header",
    [
        ("for", b"nobody"),
        ("for", b""),
        ("for", None),
        ("for", b"\xff"),
        ("event_id", b""),
        ("event_id", None),
        ("event_id", b"x" * 301),
        ("kafka_timestamp", b""),
        ("kafka_timestamp", b"-1"),
        ("kafka_timestamp", b"1.5"),
        ("kafka_timestamp", b" 1"),
        ("kafka_timestamp", "１".encode()),
        ("kafka_timestamp", b"253402300800000"),
        ("kafka_timestamp", b"9" * 30),
    ],
)
def test_wrong_headers_are_refused(header: Header) -> None:
    batch = replayed(header)
    assert reasons(batch) == ["wrong_header"]
    assert f"header {header[0]}" in batch.rejected[0].detail
    assert len(batch) == 1


def test_a_rejected_replay_keeps_its_headers() -> None:
    batch = replayed(("for", b"partner"), ("event_id", b"7"), ("kafka_timestamp", b"1000"), value=b"no json")
    (rejected,) = batch.rejected
    assert (rejected.target, rejected.event_id, rejected.timestamp_ms) == ("partner", "7", 1000)
    assert batch.targets == [None]


def test_a_tombstone_is_skipped_whatever_its_headers() -> None:
    batch = parsed(None, headers=[[("for", b"nobody")]])
    assert (batch.skipped, batch.rejected) == (1, [])


# Debezium, from a real connector


@pytest.mark.parametrize("name", ["read", "create", "create_null_content", "create_with_schema"])
def test_debezium_creates_and_reads_are_the_plain_event(name: str) -> None:
    value = (DEBEZIUM / f"{name}.json").read_bytes()
    expected = (DEBEZIUM / f"{name}.event.json").read_bytes()
    left, right = parsed(value), parsed(expected)
    assert len(left) == len(right) == 1
    left.values = right.values
    assert same(left, right)


@pytest.mark.parametrize(
    "name",
    ["update_identity_default", "update_identity_full", "delete_identity_default", "delete_identity_full"],
)
def test_debezium_updates_and_deletes_are_skipped(name: str) -> None:
    batch = parsed((DEBEZIUM / f"{name}.json").read_bytes(), None)
    assert (len(batch), batch.skipped, batch.rejected) == (0, 2, [])


# A function of the record alone, for any bytes

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FIELD_VALUES = st.sampled_from(
    [None, ..., CONTENT_ID, CONTENT_ID.upper(), "", "pause", "2025-08-10T14:30:24.123456789Z", 5, -1, 2**63, 1.5, "é"]
)
NAMES = ["id", "content_id", "user_id", "event_type", "event_ts", "duration_ms", "device", "raw_payload"]
CHANGES = st.dictionaries(st.sampled_from([*NAMES, "unknown", "op", "payload"]), FIELD_VALUES, max_size=2)
VALUES = st.one_of(
    st.none(),
    st.binary(max_size=40),
    ANYTHING.map(lambda value: json.dumps(value).encode()),
    CHANGES.map(lambda changes: plain(**changes)),
    st.tuples(st.sampled_from("crudtmx"), CHANGES).map(lambda made: envelope(made[0], **made[1])),
    st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=2)).map(
        lambda cut: plain()[: cut[0]] + cut[1] + plain()[cut[0] + 1 :]
    ),
)
HEADERS = st.none() | st.lists(
    st.tuples(
        st.sampled_from(["for", "event_id", "kafka_timestamp", "x"]),
        st.none() | st.sampled_from([b"partner", b"1754836225678"]) | st.binary(max_size=4),
    ),
    max_size=2,
)


@given(st.lists(st.tuples(VALUES, HEADERS), max_size=6), st.sampled_from([KAFKA_TIME, "1971-01-01T00:00:00Z"]))
def test_every_record_is_accepted_rejected_or_skipped_whatever_stands_beside_it(
    made: list[tuple[bytes | None, list[Header] | None]], at: str
) -> None:
    values, headers = [value for value, _ in made], [pairs for _, pairs in made]
    together = parse(records(values, headers=headers, at=at))
    assert len(together) + len(together.rejected) + together.skipped == len(values)
    apart = [
        parse(records([value], headers=[pairs], at=at, first_offset=100 + index))
        for index, (value, pairs) in enumerate(made)
    ]
    assert events_of(together) == [event for batch in apart for event in events_of(batch)]
    assert [replace(r, key=None) for r in together.rejected] == [
        replace(r, key=None) for batch in apart for r in batch.rejected
    ]
    assert together.skipped == sum(batch.skipped for batch in apart)


def events_of(batch: ParsedEvents) -> list[tuple[Any, ...]]:
    targets = batch.targets or [None] * len(batch)
    return list(
        zip(
            batch.offsets.tolist(),
            batch.values,
            batch.timestamps_ms.tolist(),
            map(encode, batch.events),
            batch.event_ids,
            batch.event_ts_us.tolist(),
            batch.duration_ms.tolist(),
            batch.types.tolist(),
            targets,
            strict=True,
        )
    )


@given(CHANGES, ANYTHING)
def test_an_envelope_of_a_row_is_the_plain_event(changes: dict[str, Any], payload: Any) -> None:
    names = {name: value for name, value in changes.items() if name in NAMES and name != "raw_payload"}
    if isinstance(names.get("event_ts"), int):
        del names["event_ts"]  # integer microseconds only inside an envelope
    left = parsed(envelope(**names, raw_payload=payload))
    right = parsed(plain(**names, raw_payload=payload))
    assert reasons(left) == reasons(right)
    left.values, left.rejected = right.values, right.rejected
    assert same(left, right)


@given(st.binary(max_size=300))
def test_any_bytes_end_somewhere(value: bytes) -> None:
    batch = parsed(value)
    assert len(batch) + len(batch.rejected) + batch.skipped == 1


def test_many_short_arrays_are_no_nesting() -> None:
    assert len(parsed(plain(raw_payload=[{"a": []}] * 2000))) == 1
