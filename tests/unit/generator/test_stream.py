"""The rows of one seed: the same each time, and what a real site would write."""

from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from engagement.parse import parse
from generator.rhythm import daily, even
from generator.rows import POISONS, Record, Stream, records
from generator.sessions import CLICK, FINISH, PAUSE, PLAY
from sources.positions import PartitionId, Span

CONTENTS = [(f"00000000-0000-4000-8000-{n:012d}", [1800, None, 600][n % 3]) for n in range(60)]
START_US = 1_760_000_000_000_000
COLUMNS = ("content_id", "user_id", "event_type", "event_ts", "duration_ms", "device", "raw_payload")


def stream(seed: int = 7, rate: float = 2_000, **others: Any) -> Stream:
    return Stream(CONTENTS, even(rate), seed=seed, **others)


def taken(source: Stream, *sizes: int) -> list[Record]:
    return [record for size in sizes for record in records(source.take(size), source, START_US)]


def test_the_same_seed_gives_the_same_rows_however_they_are_cut() -> None:
    assert taken(stream(), 9_000) == taken(stream(), 1, 4_999, 0, 17, 3_983)


def test_the_order_in_which_contents_are_read_does_not_matter() -> None:
    backwards = Stream(CONTENTS[::-1], even(2_000), seed=7)
    assert taken(backwards, 500) == taken(stream(), 500)


def test_another_seed_gives_other_rows() -> None:
    assert taken(stream(seed=7), 100) != taken(stream(seed=8), 100)


@pytest.mark.parametrize("rate", [1, 100, 2_000, 20_000])
def test_rows_are_due_at_the_rate(rate: float) -> None:
    at_s = stream(rate=rate).take(10_000).at_s
    np.testing.assert_allclose(at_s, np.arange(10_000) / rate)


def test_a_session_begins_with_play_or_click_and_its_durations_grow() -> None:
    rows = stream(rate=100).take(60_000)
    known = 0
    for session in np.unique(rows.session)[-12_000:-11_000]:
        mine = rows.session == session
        kinds, durations = rows.kind[mine].tolist(), rows.duration_ms[mine]
        assert len(set(rows.user[mine])) == len(set(rows.content[mine])) == 1
        if at_end := [position for position, kind in enumerate(kinds) if kind == FINISH]:
            assert at_end == [len(kinds) - 1]
        told = durations[durations >= 0]
        assert np.all(np.diff(told) >= 0)
        assert np.all(durations[np.isin(rows.kind[mine], [PLAY, CLICK])] == -1)
        known += kinds[0] in (PLAY, CLICK)
    assert known > 800  # the others were under way when the stream began


def test_time_passes_between_play_and_pause_as_the_duration_says() -> None:
    rows = stream(rate=50, late=False).take(30_000)
    off_s = []
    for session in np.unique(rows.session)[-4_000:-3_600]:
        mine = np.flatnonzero(rows.session == session)
        if rows.kind[mine].tolist()[:2] == [PLAY, PAUSE] and rows.duration_ms[mine[1]] >= 0:
            off_s.append(abs(np.diff(rows.at_s[mine[:2]])[0] - rows.duration_ms[mine[1]] / 1000))
    assert len(off_s) > 30
    assert np.median(off_s) < 5


def test_a_few_contents_have_most_of_the_events() -> None:
    counts = np.sort(np.bincount(stream().take(20_000).content.clip(0), minlength=60))[::-1]
    assert counts[:6].sum() > 0.4 * 20_000
    assert np.all(counts > 0)


def test_some_rows_are_late_and_none_comes_from_the_future() -> None:
    rows = stream(rate=100).take(50_000)
    late_s = rows.at_s - rows.event_s
    assert late_s.min() >= 0
    assert 0.001 < np.mean(late_s > 600) < 0.003  # beyond the allowed lateness
    assert 0.04 < np.mean(late_s > 1) < 0.08
    assert np.any(np.diff(rows.event_s) < 0)


def test_history_is_in_order_with_the_rhythm_of_the_day() -> None:
    rows = Stream(CONTENTS, daily(50_000, 3), seed=1, late=False).take(50_000)
    assert np.all(np.diff(rows.event_s) > 0)
    assert rows.event_s[0] >= 0
    assert 3 * 86_400 - 60 < rows.event_s[-1] < 3 * 86_400
    hours = np.bincount((rows.event_s // 3600).astype(int) % 24)
    assert hours[2:5].max() * 4 < hours[19:22].min()


def test_poison_is_the_share_that_was_asked_for_and_of_every_sort() -> None:
    poison = stream(poison=0.1).take(20_000).poison
    assert np.mean(poison >= 0) == pytest.approx(0.1, rel=0.1)
    assert set(poison[poison >= 0]) == set(range(len(POISONS)))


def test_contents_without_any_length_and_one_content_are_enough() -> None:
    rows = Stream([(CONTENTS[0][0], None)], even(100), seed=1).take(5_000)
    assert set(rows.content) == {0, -1}
    assert rows.duration_ms.max() > 0


@pytest.mark.parametrize("now_s", [0.0, 30 * 86_400.0], ids=["continuous", "historical"])
def test_parse_rejects_the_poison_and_nothing_else(now_s: float) -> None:
    source = stream(poison=0.1, now_s=now_s)
    rows = source.take(20_000)
    values = [_captured(record) for record in records(rows, source, START_US)]
    kafka_ms = START_US // 1000 + round(now_s * 1000) + 10_500
    batch = SimpleNamespace(
        span=Span(PartitionId("t", "id", 0), "me", 0, len(values)),
        offsets=np.arange(len(values)),
        keys=[None] * len(values),
        values=values,
        timestamps_ms=np.full(len(values), kafka_ms),
        headers=None,
    )
    parsed = parse(batch)
    assert [rejected.offset for rejected in parsed.rejected] == np.flatnonzero(rows.poison >= 0).tolist()
    assert len(parsed) == np.sum(rows.poison < 0)


def _captured(record: Record) -> bytes:
    """The row as capture writes it to Kafka."""
    row: dict[str, Any] = dict(zip(COLUMNS, record, strict=True))
    payload = row["raw_payload"]
    row["raw_payload"] = None if payload is None else msgspec.Raw(payload.encode())
    return msgspec.json.encode(row)
