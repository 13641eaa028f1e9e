"""Boards, contents and past windows equal a brute-force query of PostgreSQL over the same events."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from engagement import boards
from tests.integration.api.service import MINUTE, Service
from tests.unit.engagement.totals_batches import IDS, LENGTHS, NOON_MS, Record

BRUTE_FORCE = (Path(__file__).parent / "boards.sql").read_text(encoding="utf-8")
TABLE = """CREATE TABLE events (kafka_partition int, kafka_offset int, event_us bigint, kafka_us bigint, content text,
    kind text, duration_ms bigint, person text, length_s int)"""
TYPES = ("play", "pause", "finish", "click")
NUMBERS = ("score", "events", "unique_users", "engagement_seconds", "mean_percentage")
KNOWN = IDS[:3]  # the fourth is counted, and on no board
groups = itertools.count()
Table = psycopg.Connection[dict[str, Any]]


@st.composite
def traffic(draw: st.DrawFn) -> list[list[Record]]:
    """Up to three partitions of half an hour, with events from the future, late ones, and those without anything."""
    partitions = []
    for _ in range(draw(st.integers(1, 3))):
        arrivals = sorted(draw(st.lists(st.integers(0, 30 * MINUTE), min_size=1, max_size=40)))
        partitions.append(
            [
                Record(
                    event_ms=max(
                        0, ms - draw(st.sampled_from([-4 * MINUTE, 0, 0, 1, 59_999, 9 * MINUTE, 21 * MINUTE]))
                    ),
                    kafka_ms=ms,
                    content=draw(st.sampled_from([*IDS, None])),
                    type=draw(st.sampled_from(TYPES)),
                    duration_ms=draw(st.sampled_from([None, 0, 1, 333, 3_500, 35_000, 1_800_000, 86_400_000])),
                    user=draw(st.sampled_from([None, "a", "b", "c", "d"])),
                )
                for ms in arrivals
            ]
        )
    return partitions


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    from tests.conftest import shared_service

    with psycopg.connect(shared_service("postgres")["dsn"], row_factory=dict_row, autocommit=True) as connection:
        connection.execute(TABLE.replace("CREATE TABLE", "CREATE TEMPORARY TABLE").encode())
        yield connection


def fill(table: psycopg.Connection[Any], partitions: Sequence[Sequence[Record]]) -> None:
    table.execute("TRUNCATE events")
    rows = [
        (
            *(partition, offset, (NOON_MS + each.event_ms) * 1000, (NOON_MS + each.kafka_ms) * 1000, each.content),
            *(each.type, each.duration_ms, each.user, LENGTHS.get(each.content or "")),
        )
        for partition, records in enumerate(partitions)
        for offset, each in enumerate(records)
    ]
    with table.cursor().copy("COPY events FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def brute_force(
    table: Table,
    column: str,
    starts: Sequence[int],
    *,
    in_time: bool = True,
    apart: bool = False,
) -> list[dict[str, Any]]:
    """By content: those that are known or not, best first."""
    asked = {"column": column, "starts": list(starts), "in_time": in_time, "apart": apart}
    found = table.execute(BRUTE_FORCE.encode(), asked).fetchall()
    return [
        {name: value if name == "content" or value is None else float(value) for name, value in row.items()}
        for row in found
    ]


def check_board(table: Table, shown: dict[str, Any], column: str, starts: Sequence[int]) -> None:
    expected = [row for row in brute_force(table, column, starts) if row["content"] in KNOWN]
    assert [row["content_id"] for row in shown["rows"]] == [row["content"] for row in expected]
    for row, numbers in zip(shown["rows"], expected, strict=True):
        assert {name: row[name] for name in NUMBERS} == {name: numbers[name] for name in NUMBERS}
    minutes = boards.window_at(starts[0], 10).minutes if column == "win" else starts
    counts = per_minute(table, minutes)
    for row in shown["rows"]:
        assert row["minutes"] == [counts[minute, row["content_id"]] for minute in minutes]


def assert_alone_and_together_alike(service: Service) -> None:
    """What is read of several contents at once is what is read of each."""
    reader, now_us = service.reader, service.now_us
    stats, events = reader.of_contents(IDS, IDS, 50, now_us)
    assert stats == [reader.stats(each, now_us) for each in IDS]
    assert events == [reader.recent_events(each, 50, now_us) for each in IDS]


def per_minute(table: Table, minutes: Sequence[int]) -> Counter[tuple[float, str]]:
    """Events by minute and content."""
    rows = brute_force(table, "minute", minutes, apart=True)
    return Counter({(row["bucket"], row["content"]): row["events"] for row in rows})


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking would take minutes
)
@given(partitions=traffic(), later_ms=st.integers(0, 40 * MINUTE))
def test_everything_shown_equals_brute_force(
    redis_url: str,
    unique: str,
    table: Table,
    partitions: list[list[Record]],
    later_ms: int,
) -> None:
    fill(table, partitions)
    service = Service(redis_url, f"{unique}-{next(groups)}")
    for partition, records in enumerate(partitions):
        service.write(partition, records, KNOWN)
    service.now_us = (NOON_MS + later_ms) * 1000
    now_s = service.now_us // 1_000_000
    rolling = boards.rolling(service.now_us).minutes
    window = now_s // 600 * 600
    check_board(table, service.get("/top-content", limit=100), "minute", rolling)
    check_board(table, service.get("/top-content", limit=100, window="tumbling"), "win", [window])

    for start in (window - 1200, window - 600, window):
        past = service.get(f"/windows/{boards.iso(start * 1_000_000)}", limit=100)
        check_board(table, past, "win", [start])
        assert past["events"] == sum(row["events"] for row in brute_force(table, "win", [start]))
        assert past["late_events"] == sum(row["events"] for row in brute_force(table, "win", [start], in_time=False))

    hour = boards.last_minutes(service.now_us, 60)
    of_hour = per_minute(table, hour)
    for content_id in KNOWN:
        stats = service.get(f"/content/{content_id}/stats")
        for name, column, starts in (("rolling", "minute", rolling), ("tumbling", "win", [window])):
            numbers = {row["content"]: row for row in brute_force(table, column, starts)}.get(content_id)
            expected = numbers or {**dict.fromkeys([*NUMBERS, *TYPES, "no_pct"], 0), "mean_percentage": None}
            assert {each: stats[name][each] for each in NUMBERS} == {each: expected[each] for each in NUMBERS}
            assert stats[name]["types"] == {each: expected[each] for each in TYPES}
            if name == "rolling":
                assert stats["no_pct"] == expected["no_pct"]
        assert stats["minutes"] == [of_hour[minute, content_id] for minute in hour]
    assert_alone_and_together_alike(service)
    windows = range(NOON_MS // 1000, NOON_MS // 1000 + 2400, 600)
    late = sum(row["events"] for row in brute_force(table, "win", windows, in_time=False))
    service.look()
    assert service.get("/metrics")["late_events_total"] == late
