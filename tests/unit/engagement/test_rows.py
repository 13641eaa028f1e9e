"""What the partner and BigQuery get: names, order and formats, held against golden files."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engagement.enrich import ContentRow, Contents, EnrichedEvents, enrich
from engagement.partner_body import FIELDS, partner_body, partner_events
from engagement.rows import ARROW_SCHEMA, arrow_rows, event_days
from tests.unit.engagement.micro_batches import CONTENT_ID, KAFKA_TIME, parsed, plain

GOLDEN = Path(__file__).parents[2] / "golden" / "enriched_event"
UNKNOWN_ID = "00000000-0000-4000-8000-000000000002"


def batch_of(*values: bytes, at: str = KAFKA_TIME, length_seconds: int | None = 1800) -> EnrichedEvents:
    contents = Contents()
    contents.put([ContentRow(CONTENT_ID, "a-slug", "Été", "podcast", length_seconds)])
    batch = parsed(*values, at=at)
    assert not batch.rejected
    return enrich(batch, contents)


def body(**fields: Any) -> dict[str, Any]:
    encoded = partner_body(partner_events(batch_of(plain(**fields)), [0]))
    return json.loads(encoded)  # type: ignore[no-any-return]


def objects(batch: EnrichedEvents, indexes: Sequence[int]) -> list[dict[str, Any]]:
    """What stands in a request's array."""
    return json.loads(b"[" + partner_body(partner_events(batch, indexes)) + b"]")  # type: ignore[no-any-return]


def golden_batch() -> EnrichedEvents:
    contents = Contents()
    contents.put([tuple(json.loads((GOLDEN / "content.json").read_bytes()).values())])
    return enrich(parsed((GOLDEN / "event.json").read_bytes()), contents)


def test_the_enriched_event_is_the_golden_one_byte_for_byte() -> None:
    assert partner_body(partner_events(golden_batch(), [0])) == (GOLDEN / "enriched.json").read_bytes().rstrip(b"\n")


def test_the_example_comes_out_key_for_key() -> None:
    example = json.loads((GOLDEN / "example.json").read_bytes())
    encoded = partner_body(partner_events(golden_batch(), [0]))
    made = json.loads(encoded)
    assert [(key, made[key]) for key in made if key in example] == list(example.items())
    for key, value in example.items():
        assert type(made[key]) is type(value)


def test_both_destinations_have_the_same_names_in_the_same_order() -> None:
    assert FIELDS == (
        "event_id", "content_id", "content_slug", "content_title", "content_type", "content_length_seconds",
        "user_id", "event_type", "event_ts", "duration_ms", "engagement_seconds", "engagement_percentage",
        "device", "raw_payload", "processed_at", "anomalies",
    )  # fmt: skip
    assert tuple(ARROW_SCHEMA.names) == FIELDS == tuple(body())


def test_nulls_stay_nulls() -> None:
    nothing = dict.fromkeys(("content_id", "user_id", "duration_ms", "device", "raw_payload"))
    batch = batch_of(plain(**nothing, event_type="play"))
    made = json.loads(partner_body(partner_events(batch, [0])))
    nulls = {name for name, value in made.items() if value is None}
    assert nulls == {*nothing, "content_slug", "content_title", "content_type", "content_length_seconds"} | {
        "engagement_seconds",
        "engagement_percentage",
    }
    (row,) = arrow_rows(batch, [0]).to_pylist()
    assert {name for name, value in row.items() if value is None} == nulls
    assert row["anomalies"] == made["anomalies"] == []


def test_an_unknown_content_has_nulls_and_says_so() -> None:
    batch = batch_of(plain(content_id=UNKNOWN_ID))
    made = json.loads(partner_body(partner_events(batch, [0])))
    assert (made["content_id"], made["content_title"], made["content_length_seconds"]) == (UNKNOWN_ID, None, None)
    (row,) = arrow_rows(batch, [0]).to_pylist()
    assert (row["content_id"], row["content_title"], row["content_length_seconds"]) == (UNKNOWN_ID, None, None)
    assert row["anomalies"] == made["anomalies"] == ["unknown_content"]


@pytest.mark.parametrize(
    ("duration_ms", "text"),
    [(0, "0"), (1, "0.001"), (10, "0.01"), (1500, "1.5"), (900_000, "900"), (86_400_000, "86400"), (999, "0.999")],
)
def test_engagement_seconds_is_an_integer_where_whole(duration_ms: int, text: str) -> None:
    encoded = partner_body(partner_events(batch_of(plain(duration_ms=duration_ms)), [0]))
    assert f'"engagement_seconds":{text},' in encoded.decode()


@pytest.mark.parametrize(
    ("duration_ms", "text"),
    [(0, "0.0"), (180, "0.01"), (900_000, "50.0"), (599_940, "33.33"), (86_400_000, "4800.0")],
)
def test_engagement_percentage_has_at_most_two_decimals(duration_ms: int, text: str) -> None:
    encoded = partner_body(partner_events(batch_of(plain(duration_ms=duration_ms)), [0]))
    assert f'"engagement_percentage":{text},' in encoded.decode()


@given(st.integers(0, 86_400_000), st.integers(1, 10_000))
def test_numbers_never_show_a_rounding_error(duration_ms: int, length_seconds: int) -> None:
    batch = batch_of(plain(duration_ms=duration_ms), length_seconds=length_seconds)
    made = json.loads(partner_body(partner_events(batch, [0])), parse_float=str)
    seconds, percentage = str(made["engagement_seconds"]), made["engagement_percentage"]
    assert len(seconds.partition(".")[2]) <= 3
    assert len(percentage.partition(".")[2]) <= 2
    assert "e" not in seconds + percentage
    (row,) = arrow_rows(batch, [0]).to_pylist()
    assert row["engagement_seconds"] == float(seconds)
    assert row["engagement_percentage"] == float(percentage)


@pytest.mark.parametrize(
    ("event_ts", "shown"),
    [
        ("2025-08-10T14:30:24Z", "2025-08-10T14:30:24Z"),
        ("2025-08-10T14:30:24.000000Z", "2025-08-10T14:30:24Z"),
        ("2025-08-10T14:30:24.5Z", "2025-08-10T14:30:24.500000Z"),
        ("2025-08-10T16:30:24.123456789+02:00", "2025-08-10T14:30:24.123456Z"),
        (None, "2025-08-10T14:30:25.678000Z"),
    ],
)
def test_event_ts_is_utc_with_six_digits_or_none(event_ts: str | None, shown: str) -> None:
    assert body(event_ts=event_ts)["event_ts"] == shown


def test_processed_at_is_the_kafka_timestamp_to_the_second() -> None:
    batch = batch_of(plain(), at="2025-08-10T14:30:25.999Z")
    assert json.loads(partner_body(partner_events(batch, [0])))["processed_at"] == "2025-08-10T14:30:25Z"
    assert arrow_rows(batch, [0])["processed_at"].to_pylist() == [datetime(2025, 8, 10, 14, 30, 25, tzinfo=UTC)]


@pytest.mark.parametrize(
    "raw", [b'{"b":1, "a" : [1.50, 1e400],"b":2}', b"1.0", b'"text"', '{"é": "😀"}'.encode(), b"[]"]
)
def test_raw_payload_reaches_both_destinations_byte_for_byte(raw: bytes) -> None:
    batch = batch_of(plain(raw_payload="X").replace(b'"X"', raw))
    assert b'"raw_payload":' + raw + b',"processed_at"' in partner_body(partner_events(batch, [0]))
    assert arrow_rows(batch, [0])["raw_payload"].to_pylist() == [raw.decode()]


def test_indexes_choose_and_order_the_events() -> None:
    batch = batch_of(*[plain(id=number, duration_ms=number) for number in range(10)])
    assert [each["duration_ms"] for each in objects(batch, [7, 0, 3])] == [7, 0, 3]
    assert arrow_rows(batch, [7, 0, 3])["event_id"].to_pylist() == ["7", "0", "3"]
    backwards = list(range(len(batch)))[::-1]  # as many as there are, in another order
    assert arrow_rows(batch, backwards).to_pylist() == arrow_rows(batch, range(len(batch))).to_pylist()[::-1]
    assert (partner_body(partner_events(batch, [])), arrow_rows(batch, []).num_rows) == (b"", 0)


def test_the_columns_are_those_that_bigquery_takes() -> None:
    rows = arrow_rows(batch_of(plain(), plain(content_id=None)), range(2))
    rows.validate(full=True)
    assert rows.schema == ARROW_SCHEMA
    utc = pa.timestamp("us", tz="UTC")
    allowed = {pa.string(), pa.int64(), pa.float64(), utc, pa.list_(pa.string())}
    assert set(ARROW_SCHEMA.types) <= allowed


def test_both_destinations_hold_the_same_values() -> None:
    batch = batch_of(
        plain(), plain(id=None, user_id="😀", device=""), plain(event_type="finish", duration_ms=None, raw_payload=None)
    )
    for made, row in zip(objects(batch, range(3)), arrow_rows(batch, range(3)).to_pylist(), strict=True):
        if row["raw_payload"] is not None:
            row["raw_payload"] = json.loads(row["raw_payload"])
        for name in ("event_ts", "processed_at"):
            row[name] = row[name].isoformat().replace("+00:00", "Z")
        assert row == made


def test_event_days_are_those_of_utc() -> None:
    batch = batch_of(plain(event_ts="2025-08-09T23:59:59.999999Z"), plain(event_ts="2025-08-10T01:59:59+02:00"))
    day = (datetime(2025, 8, 9) - datetime(1970, 1, 1)).days
    assert event_days(batch).tolist() == [day, day]
