"""Enriching: which row a batch sees, percentages and scores without rounding errors, anomalies."""

import json
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engagement.enrich import (
    ANOMALIES,
    ANOMALY_NAMES,
    ContentRow,
    Contents,
    EnrichedEvents,
    content_columns,
    enrich,
    percentage_hundredths,
    score_thousandths,
)
from engagement.events import CLICK, FINISH, PAUSE, PLAY
from tests.unit.engagement.micro_batches import CONTENT_ID, parsed, plain

OTHER_ID = "00000000-0000-4000-8000-000000000002"


def content(length_seconds: int | None = 1800, content_id: str = CONTENT_ID, title: str = "A title") -> ContentRow:
    return ContentRow(content_id, "a-slug", title, "video", length_seconds)


def enriched(*rows: dict[str, Any], known: list[ContentRow] | None = None) -> EnrichedEvents:
    contents = Contents()
    contents.put([content()] if known is None else known)
    batch = parsed(*[plain(**row) for row in rows])
    assert not batch.rejected
    return enrich(batch, contents)


# Contents


def test_rows_never_move_and_a_change_appends() -> None:
    contents = Contents()
    (first,) = contents.put([content()])
    batch = enrich(parsed(plain()), contents)
    (second,) = contents.put([content(title="Another title")])
    assert first != second == contents.row_of(CONTENT_ID)
    assert contents.rows[batch.content_rows[0]] == content()
    assert len(contents) == 1


def test_put_takes_rows_and_columns_alike() -> None:
    contents = Contents()
    assert contents.put([content(), tuple(content(content_id=OTHER_ID))]) == [1, 2]
    changed = contents.put_columns(content_columns([content(content_id=OTHER_ID, length_seconds=None)]))
    assert [contents.rows[row] for row in changed] == [content(content_id=OTHER_ID, length_seconds=None)]
    assert (contents.put([]), len(contents), len(contents.rows)) == ([], 2, 4)


def test_missing_are_ids_in_uuid_form_that_nobody_has_asked_for() -> None:
    contents = Contents()
    contents.put([content()])
    assert contents.missing([CONTENT_ID, OTHER_ID, None, "no uuid", "", OTHER_ID]) == {OTHER_ID}
    contents.mark_absent([OTHER_ID])
    assert contents.missing([CONTENT_ID, OTHER_ID]) == set()
    assert contents.row_of(OTHER_ID) == Contents.UNKNOWN
    contents.clear_absent()
    assert contents.missing([OTHER_ID]) == {OTHER_ID}


def test_an_absent_content_may_appear_and_a_known_one_disappear() -> None:
    contents = Contents()
    contents.mark_absent([CONTENT_ID])
    contents.put([content()])
    assert contents.row_of(CONTENT_ID) > 0
    contents.clear_absent()
    assert contents.missing([CONTENT_ID]) == set()
    contents.mark_absent([CONTENT_ID])
    assert (contents.row_of(CONTENT_ID), len(contents)) == (Contents.UNKNOWN, 0)
    assert contents.missing([CONTENT_ID]) == set()


def test_many_contents_keep_their_lengths() -> None:
    contents = Contents()
    rows = contents.put([content(number, f"00000000-0000-4000-8000-{number:012}") for number in range(5000)])
    assert contents.lengths[rows].tolist() == list(range(5000))
    assert contents.lengths[Contents.NONE] == -1


def test_stored_rows_are_json_under_the_names_of_the_enriched_event() -> None:
    contents = Contents()
    rows = contents.put([content(), content(None, OTHER_ID)])
    stored = dict(contents.stored([Contents.NONE, *rows]))
    assert json.loads(stored[CONTENT_ID]) == {
        "content_id": CONTENT_ID,
        "content_slug": "a-slug",
        "content_title": "A title",
        "content_type": "video",
        "content_length_seconds": 1800,
    }
    assert json.loads(stored[OTHER_ID])["content_length_seconds"] is None


# Enriched events


def test_a_batch_keeps_its_parsed_columns() -> None:
    contents = Contents()
    batch = parsed(plain(), plain(id=8), None, b"no json")
    result = enrich(batch, contents, contents_changed=[3])
    assert len(result) == 2
    assert result.events is batch.events
    assert (result.rejected, result.skipped, result.span) == (batch.rejected, 1, batch.span)
    assert (result.contents, result.contents_changed) == (contents, [3])


def test_an_empty_batch() -> None:
    batch = enriched()
    for column in (batch.content_rows, batch.percentages, batch.anomaly_bits):
        assert column.tolist() == []
        assert column.dtype == np.int64


def test_null_unknown_and_known_contents() -> None:
    batch = enriched({}, {"content_id": None}, {"content_id": OTHER_ID}, {"content_id": "no uuid"})
    assert batch.content_rows.tolist() == [1, Contents.NONE, Contents.UNKNOWN, Contents.UNKNOWN]
    assert batch.percentages.tolist() == [5000, -1, -1, -1]
    assert [batch.anomalies(index) for index in range(4)] == [[], [], ["unknown_content"], ["unknown_content"]]


@pytest.mark.parametrize(
    ("duration_ms", "length_seconds", "expected"),
    [
        (900_000, 1800, 5000),
        (0, 1800, 0),
        (None, 1800, -1),
        (900_000, None, -1),
        (900_000, 0, -1),
        (900_000, -5, -1),
        (1, 3, 3),  # 0.0333 %
        (1, 20, 1),  # 0.005 %: half up
        (1, 21, 0),
        (3, 20, 2),  # 0.015 %
        (86_400_000, 1, 864_000_000),
        (86_400_000, 2**31 - 1, 0),
    ],
)
def test_percentage(duration_ms: int | None, length_seconds: int | None, expected: int) -> None:
    assert enriched({"duration_ms": duration_ms}, known=[content(length_seconds)]).percentages.tolist() == [expected]


@given(st.lists(st.tuples(st.integers(0, 86_400_000), st.integers(1, 100_000)), min_size=1))
def test_percentages_are_decimal_half_up(pairs: list[tuple[int, int]]) -> None:
    durations, lengths = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
    hundredths = percentage_hundredths(durations, lengths)
    for (duration, length), got in zip(pairs, hundredths.tolist(), strict=True):
        exact = Decimal(duration) / 1000 / length * 100
        if (duration * 20) % length:  # a quotient that may not end is never a tie
            assert got == int(exact.quantize(Decimal("0.01"), ROUND_HALF_UP) * 100)
        else:
            assert got == int((Decimal(duration * 10) / length).quantize(Decimal(1), ROUND_HALF_UP))


@given(st.lists(st.tuples(st.sampled_from([PLAY, PAUSE, FINISH, CLICK]), st.integers(-1, 20_000)), min_size=1))
def test_scores_are_decimal_half_up(pairs: list[tuple[int, int]]) -> None:
    weights = {PLAY: Decimal(1), PAUSE: Decimal("0.5"), FINISH: Decimal(3), CLICK: Decimal("0.3")}
    types, percentages = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
    for (code, hundredths), got in zip(pairs, score_thousandths(types, percentages).tolist(), strict=True):
        share = min(Decimal(max(hundredths, 0)) / 100, Decimal(100)) / 100
        points = weights[code] * (1 + share)
        assert got == int(points.quantize(Decimal("0.001"), ROUND_HALF_UP) * 1000)


@pytest.mark.parametrize(
    ("code", "hundredths", "expected"),
    [
        (PLAY, -1, 1000),
        (PAUSE, 5000, 750),
        (FINISH, 10_000, 6000),
        (FINISH, 12_345, 6000),
        (CLICK, 0, 300),
        (PAUSE, 9, 500),  # 500.45
        (PAUSE, 10, 501),  # 500.5: half up
    ],
)
def test_score(code: int, hundredths: int, expected: int) -> None:
    assert score_thousandths(np.array([code]), np.array([hundredths])).tolist() == [expected]


# Anomalies


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"event_type": "pause", "duration_ms": 1_800_000}, []),
        ({"event_type": "pause", "duration_ms": 1_800_180}, ["over_length"]),  # 100.01 %
        ({"event_type": "pause", "duration_ms": 1_800_089}, []),  # 100.00 % when rounded
        ({"event_type": "finish", "duration_ms": 900_000}, []),
        ({"event_type": "finish", "duration_ms": 899_820}, ["finish_too_early"]),  # 49.99 %
        ({"event_type": "finish", "duration_ms": 0}, ["finish_too_early"]),
        ({"event_type": "finish", "duration_ms": 1_900_000}, ["over_length"]),
        ({"event_type": "pause", "duration_ms": 0}, []),
        ({"event_type": "play", "duration_ms": 0}, []),
        ({"event_type": "finish", "duration_ms": None}, ["duration_missing"]),
        ({"event_type": "pause", "duration_ms": None}, ["duration_missing"]),
        ({"event_type": "play", "duration_ms": None}, []),
        ({"event_type": "click", "duration_ms": None}, []),
        ({"event_type": "click", "content_id": OTHER_ID}, ["unknown_content"]),
        ({"event_type": "finish", "content_id": OTHER_ID, "duration_ms": 0}, ["unknown_content"]),
        (
            {"event_type": "finish", "content_id": OTHER_ID, "duration_ms": None},
            ["duration_missing", "unknown_content"],
        ),
        ({"event_type": "finish", "content_id": None, "duration_ms": None}, ["duration_missing"]),
        ({"event_type": "finish", "content_id": None, "duration_ms": 0}, []),
    ],
)
def test_anomalies(row: dict[str, Any], expected: list[str]) -> None:
    assert enriched(row).anomalies(0) == expected


def test_the_names_of_all_bits_come_in_one_order() -> None:
    assert ANOMALY_NAMES[0] == ()
    assert ANOMALY_NAMES[15] == ANOMALIES
    assert len(set(ANOMALY_NAMES)) == 16
