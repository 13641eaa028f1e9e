"""The audit's arithmetic: keys that give their ids back, buckets on disk, prints that see every column."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engagement.parse import parse
from operations.audit.auditor import default_range
from operations.audit.boards import Judged, PartitionCount
from operations.audit.fingerprints import event_columns, loose_columns, prints_of
from operations.audit.partner import partner_rows
from operations.audit.problem import CouldNotLook
from operations.audit.report import Finding, Findings, Report, Sums
from operations.audit.scan import Range, Scanned
from operations.audit.spool import BUCKETS, Spool, integer_keys, integer_of, is_integer, named_keys, rows_of, text_keys
from sources.kafka_records import Records
from sources.positions import PartitionId, Span
from tests.unit.engagement.totals_batches import IDS, LENGTHS, NOON_MS, Record, batch, count

ALL = Range(0, 2**60)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_an_integer_comes_back_from_its_key(ids):
    assert [integer_of(key) for key in integer_keys(np.array(ids, np.int64)).tolist()] == ids


@given(st.lists(st.one_of(st.integers(-(2**70), 2**70).map(str), st.text(max_size=8), st.from_regex(r"0*[0-9]{1,19}"))))
def test_ids_as_text_have_the_key_of_their_integer_or_a_name(texts):
    keys, named = text_keys(texts)
    assert named_keys(keys.tolist(), dict(named)) == texts
    for key, text in zip(keys.tolist(), texts, strict=True):
        if is_integer(text):
            assert key == integer_keys(np.array([int(text)], np.int64))[0]


@pytest.mark.parametrize("text", ["007", "+7", " 7", "7 ", "-0", "", "٧", str(2**63), "1_0"])
def test_what_is_not_the_print_of_an_integer_is_another_id(text):
    assert not is_integer(text)
    assert named_keys(text_keys(["7", text])[0].tolist(), dict(text_keys(["7", text])[1])) == ["7", text]


def test_a_spool_gives_every_row_back_in_its_bucket(tmp_path):
    spool = Spool(tmp_path, "rows")
    keys = integer_keys(np.arange(500_000))
    for part in np.array_split(keys, 7):
        spool.append(rows_of(part, 1))
    spool.append(*(lambda keys, named: (rows_of(keys), named))(*text_keys(["a", "b"])))
    assert len(spool) == 500_002
    buckets = [spool.bucket(number) for number in range(BUCKETS)]
    assert sorted(key for rows in buckets for key in rows["key"].tolist()) == sorted(
        [*keys.tolist(), *text_keys(["a", "b"])[0].tolist()]
    )
    assert max(len(rows) for rows in buckets) < 2 * 500_000 / BUCKETS
    assert {name for number in range(BUCKETS) for name in spool.names(number).values()} == {"a", "b"}


def records(values, headers=None):
    count = len(values)
    return Records(
        span=Span(PartitionId("events", "id", 0), "", 0, count),
        offsets=np.arange(count),
        keys=[None] * count,
        values=values,
        timestamps_ms=np.full(count, 1_754_836_225_000),
        headers=headers,
    )


ROW = {
    "id": 7,
    "content_id": "a",
    "user_id": "b",
    "event_type": "play",
    "event_ts": "2025-08-10T14:30:25.000001Z",
    "duration_ms": 5,
    "device": "tv",
    "raw_payload": {"a": [1]},
}


def test_every_column_counts():
    changed = [
        ROW,
        *({**ROW, name: value} for name, value in (("content_id", "A"), ("user_id", None), ("event_type", "click"))),
        *({**ROW, name: value} for name, value in (("duration_ms", 6), ("device", ""), ("raw_payload", {"a": [2]}))),
        {**ROW, "event_ts": "2025-08-10T14:30:25.000002Z"},
    ]
    parsed = parse(records([json.dumps(each).encode() for each in changed]))
    columns = [event_columns(e, at) for e, at in zip(parsed.events, parsed.event_ts_us.tolist(), strict=True)]
    assert len(set(prints_of(columns).tolist())) == len(changed)


@pytest.mark.parametrize("wrap", [lambda row: row, lambda row: {"op": "c", "after": row}])
def test_a_rejected_row_has_the_print_of_its_columns(wrap):
    """As PostgreSQL's rows have it, so that a poisoned row is known in the topic."""
    row = {**ROW, "device": "x" * 100, "event_type": None, "raw_payload": None}
    event_id, at, columns = loose_columns(json.dumps(wrap(row)).encode())
    assert (event_id, at) == ("7", 1754836225_000001)
    assert columns == ("a", "b", None, at, 5, "x" * 100, None)


@pytest.mark.parametrize("value", [None, b"", b"\xff", b"[1]", b'"x"', b"{", b'{"id": {"a": 1}}'])
def test_a_record_that_is_nothing_has_no_id_of_its_own(tmp_path, value):
    scanned = Scanned.empty(tmp_path)
    scanned.take(records([value, b'{"content_id": null, "event_type": "play"}']), ALL)
    names = [
        name
        for number in range(BUCKETS)
        for name in named_keys(scanned.records.bucket(number)["key"].tolist(), scanned.records.names(number))
    ]
    assert "kafka:events-0-1" in names
    assert len(scanned.rejected) == (value is not None)


def test_a_search_takes_only_what_is_searched_for(tmp_path):
    scanned = Scanned.empty(tmp_path)
    rejected = {**ROW, "id": 8, "device": "x" * 100}
    values = [json.dumps(each).encode() for each in (ROW, rejected, {**ROW, "id": 9}, {**rejected, "id": "x"})]
    scanned.search(records(values), ALL, np.sort(integer_keys(np.array([8, 9]))))
    assert (len(scanned.records), len(scanned.rejected)) == (2, 1)


def test_a_line_that_is_no_event_is_named(tmp_path):
    file = tmp_path / "ids"
    file.write_text('7\n\n{"event_id": "8"}\n{"id": 9}\n')
    with pytest.raises(CouldNotLook, match="Line 4 of"):
        list(partner_rows(file, ALL))
    with pytest.raises(CouldNotLook, match="No such file"):
        list(partner_rows(Path("nowhere"), ALL))


def test_findings_are_counted_beyond_what_is_shown():
    findings = Findings()
    findings.add("bigquery", "stale", ["9"])
    findings.add("bigquery", "doubled", ["3"])
    findings.add("bigquery", "missing", ["1", "2"])
    findings.add("bigquery", "missing", ["4"])
    findings.add("bigquery", "altered", [])
    assert [each.said(2) for each in findings] == [
        "bigquery: 3 missing: 1, 2 and 1 more",
        "bigquery: 1 doubled: 3",
        "bigquery: 1 stale: 9",
    ]


def test_a_report_is_clean_when_nothing_is_wrong_and_every_sum_closes():
    closed = Sums("bigquery", records=5, delivered=2, refused=1, rejected=1, not_due=1)
    stale, missing = Finding("bigquery", "stale", 1, ["1"]), Finding("bigquery", "missing", 1, ["1"])
    assert Report("a", "b", [stale], [closed]).clean
    assert not Report("a", "b", [missing], [closed]).clean
    assert not Report("a", "b", [], [Sums("bigquery", records=5, delivered=4)]).clean


def test_the_default_range_is_an_hour_that_ended_a_minute_ago():
    wanted = default_range(datetime(2025, 8, 10, 14, 30, 59, tzinfo=UTC).timestamp())
    assert wanted.end_us == int(datetime(2025, 8, 10, 14, 29, tzinfo=UTC).timestamp()) * 1_000_000
    assert wanted.end_us - wanted.begin_us == 3_600_000_000


def test_only_whole_buckets_of_the_range_are_judged():
    start = 1_754_836_200  # 14:30
    judged = Judged(since_s=start + 1, until_s=start + 1300, window_minutes=10, lateness_us=0)
    buckets = list(judged.buckets())
    assert [at - start for kind, at in buckets if kind == "window"] == [600]
    assert [at - start for kind, at in buckets if kind == "minute"] == list(range(60, 1200 + 1, 60))
    assert judged.holds("window", np.array([start // 600, start // 600 + 1, start // 600 + 2])).tolist() == [0, 1, 0]


def test_the_audit_counts_each_event_where_the_totals_store_it():
    """In time, straggling, late; in several batches, of which the audit sees no state in between."""
    records = [
        Record(minute * 60_000 - behind * 60_000, minute * 60_000, IDS[minute % 4], "pause", 900 * minute)
        for minute in range(60)
        for behind in (0, 3, 12, 15, 19, 25)
    ]
    judged = Judged(NOON_MS // 1000 - 3600, NOON_MS // 1000 + 3600, 10, 600_000_000)
    audited, totals = PartitionCount(judged, len(records), LENGTHS), count(records)
    for start in range(0, len(records), 50):
        audited.take(batch(records[start : start + 50], start))
    rows = {
        (*bucket, content_id): tuple(np.frombuffer(row, "<i8").tolist())
        for bucket in judged.buckets()
        for content_id, row in audited.rows(bucket).items()
    }
    assert rows == totals.stored
    assert {kind for kind, _, _ in rows} == {"minute", "window"}
    assert {start: late for start, late in audited.late.items() if late} == totals.late
    of_windows = [bucket for bucket in judged.buckets() if judged.whole_window(bucket)]
    assert sum(audited.events(each) + audited.late_of(each) for each in of_windows) == len(records)
