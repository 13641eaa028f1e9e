"""Rows and the requests made of them: nothing is lost, moved or made too large."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks import bigquery_rows
from sinks.bigquery_ledger import day_ranges
from sinks.bigquery_rows import Rows, frozen, rows_of, schema_bytes
from sinks.bigquery_tables import columns
from tests.fakes.bigquery_events import EventBatch, arrow_rows, batch, day_of


def all_rows(*batches: EventBatch, offset_from: int = 0) -> Rows:
    return rows_of(batches, day_of, "bigquery", offset_from)


def offsets_in(rows: Rows, body: bytes) -> list[int]:
    schema = pa.ipc.read_schema(pa.py_buffer(schema_bytes(rows, arrow_rows)))
    return pa.ipc.read_record_batch(pa.py_buffer(body), schema).column("kafka_offset").to_pylist()


def test_rows_below_the_position_and_of_other_sinks_are_left_out() -> None:
    rows = all_rows(batch(0, 5), batch(5, 10, targets={6: "partner", 7: "bigquery"}), offset_from=3)
    assert rows.offsets.tolist() == [3, 4, 5, 7, 8, 9]
    assert rows.which.tolist() == [0, 0, 1, 1, 1, 1]
    assert rows.at(3) == (rows.batches[1], 2)


def test_no_rows_at_all() -> None:
    assert len(all_rows()) == 0
    assert len(all_rows(batch(0, 9, []))) == 0


@pytest.mark.parametrize("request_bytes", [100, 1_000, 10_000_000])
def test_requests_hold_every_row_once_in_order(monkeypatch: pytest.MonkeyPatch, request_bytes: int) -> None:
    monkeypatch.setattr(bigquery_rows, "REQUEST_BYTES", request_bytes)
    rows = all_rows(batch(0, 30), batch(30, 33, payload="x" * 5_000), batch(33, 60))
    made = frozen(rows, arrow_rows, 1)
    assert [offset for part, body in made for offset in offsets_in(part, body)] == list(range(60))
    assert [offset for part, _ in made for offset in part.offsets.tolist()] == list(range(60))


def test_a_request_is_larger_than_aimed_at_only_for_a_single_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bigquery_rows, "REQUEST_BYTES", 3_000)
    made = frozen(all_rows(batch(0, 50), batch(50, 52, payload="x" * 9_000), batch(52, 90)), arrow_rows, 1)
    assert all(len(body) <= 6_000 or len(part) == 1 for part, body in made)


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=60), st.integers(1, 8))
def test_day_ranges_cover_the_days_and_are_few(days: list[int], ranges_max: int) -> None:
    ranges = day_ranges(days, ranges_max)
    assert len(ranges) <= ranges_max
    assert all(any(first <= day < end for first, end in ranges) for day in days)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(ranges))
    if len({*days}) <= ranges_max:
        covered = {day for first, end in ranges for day in range(first, end)}
        assert covered == set(days)


def test_the_columns_of_a_request_are_those_of_the_table() -> None:
    from engagement.rows import ARROW_SCHEMA

    added = ["source_topic", "source_epoch", "kafka_partition", "kafka_offset", "kafka_timestamp", "ingest_timestamp"]
    assert [name for name, _, _ in columns("enriched_events")] == [*ARROW_SCHEMA.names, *added]
    schema = pa.ipc.read_schema(pa.py_buffer(schema_bytes(all_rows(batch(0, 1)), arrow_rows)))
    assert schema.names[-6:] == added


def test_rows_may_be_chosen_by_mask_and_slice() -> None:
    rows = all_rows(batch(0, 10))
    assert rows[2:4].offsets.tolist() == [2, 3]
    assert rows[np.array([True] + [False] * 9)].offsets.tolist() == [0]
