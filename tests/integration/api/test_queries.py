"""Boards and contents as the API answers them equal those counted event by event."""

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engagement import boards
from sources.positions import PartitionId, Span
from tests.integration.api.service import MINUTE, Service
from tests.unit.engagement.totals_batches import CONTENTS, IDS, NOON_MS, PARTITION, Record

TITLES = {content_id: (content_id, f"Title {content_id}") for content_id in [*IDS, *(f"c{i}" for i in range(2000))]}


@pytest.fixture
def service(redis_url: str, unique: str) -> Service:
    return Service(redis_url, unique)


def traffic(seed: int, ids: Sequence[str], events: int) -> list[Record]:
    """Half an hour before NOW_MS, some late; few users, so that they come again."""
    chance = random.Random(seed)
    kafka = sorted(chance.randrange(-15 * MINUTE, 15 * MINUTE + 30_000) for _ in range(events))
    return [
        Record(
            event_ms=ms - chance.choice([0, 0, 0, 1000, 3 * MINUTE, 12 * MINUTE]),
            kafka_ms=ms,
            content=chance.choice(ids),
            type=chance.choice(["play", "pause", "finish", "click"]),
            duration_ms=chance.choice([None, 900, 40_000]),
            user=f"u{chance.randrange(20)}",
        )
        for ms in kafka
    ]


def shown(board: dict[str, Any]) -> list[tuple[str, int, int, int]]:
    assert [row["rank"] for row in board["rows"]] == list(range(1, len(board["rows"]) + 1))
    return [
        (row["content_id"], round(row["score"] * 1000), row["events"], row["unique_users"]) for row in board["rows"]
    ]


@pytest.mark.parametrize("contents", [20, 400], ids=["few contents", "more than are listed"])
def test_boards_merge_partitions_exactly(service: Service, contents: int) -> None:
    ids = [f"c{i}" for i in range(contents)]
    known = ids[:-5]
    for partition in range(3):
        # c0 to c9 occur in every partition, the others in one.
        own = ids[:10] + ids[10 + partition :: 3]
        service.write(partition, traffic(partition, own, 1500), known)
    rolling = boards.rolling(service.now_us)
    minutes = rolling.minutes
    for limit in (1, 10, 100):
        board = service.get("/top-content", limit=limit)
        assert shown(board) == service.board("minute", minutes, known)[:limit]
        tumbling = service.get("/top-content", limit=limit, window="tumbling")
        assert shown(tumbling) == service.board("window", [NOON_MS // 1000 + 600], known)[:limit]
    assert (board["window"], board["start"], board["end"]) == (
        "rolling",
        boards.iso(minutes[0] * 1_000_000),
        boards.iso((minutes[-1] + 60) * 1_000_000),
    )
    for row in board["rows"]:
        per_minute = [
            sum(counted.rows.get(("minute", minute, row["content_id"]), (0,))[0] for counted in service.counted)
            for minute in minutes
        ]
        assert row["minutes"] == per_minute
        assert sum(per_minute) == row["events"]
        assert row["content_title"] == f"Title {row['content_id']}"
        assert row["content_type"] == "video"


def test_a_content_below_every_listed_minute_is_not_overlooked(service: Service) -> None:
    """Fifty contents lead each minute, others each time; the steady one leads the ten minutes together."""
    records = []
    for minute in range(10):
        at = (6 + minute) * MINUTE
        for place in range(60):
            records += [Record(at, at, f"c{minute * 60 + place}", "finish")]
        records += [Record(at, at, "c1999", "play")] * 2
    service.write(0, records, list(TITLES))
    assert shown(service.get("/top-content", limit=1)) == [("c1999", 20_000, 20, 0)]


def test_even_a_thousand_listed_contents_may_not_decide(service: Service) -> None:
    records = []
    for minute in range(10):
        at = (6 + minute) * MINUTE
        records += [Record(at, at, f"c{place}", "pause") for place in range(minute % 2, 2000, 2)]
        records += [Record(at, at, f"x{minute}-{place}", "pause") for place in range(200)]
    service.write(0, records, list(TITLES))
    known = [content_id for content_id in TITLES if content_id not in IDS]
    expected = service.board("minute", boards.rolling(service.now_us).minutes, known)
    assert shown(service.get("/top-content", limit=100)) == expected[:100]


def test_ties_are_ordered_by_events_then_content_id(service: Service) -> None:
    at = 10 * MINUTE
    records = [Record(at, at, IDS[2], "play"), Record(at, at, IDS[1], "play")]
    records += [Record(at, at, IDS[3], "pause")] * 2
    service.write(0, records, IDS)
    assert [row["content_id"] for row in service.get("/top-content")["rows"]] == [IDS[3], IDS[1], IDS[2]]


def test_unknown_contents_are_shown_once_they_are_known(service: Service) -> None:
    service.write(0, [Record(14 * MINUTE, 14 * MINUTE, "new")], [])
    assert service.get("/top-content")["rows"] == []
    service.get("/content/new/stats", 404)
    service.get("/content/new/events", 404)
    service.write(1, [], ["new"])
    assert [row["content_id"] for row in service.get("/top-content")["rows"]] == ["new"]
    assert service.get("/content/new/stats")["rolling"]["events"] == 1


def test_an_idle_content_leaves_the_board_by_the_readers_clock(service: Service) -> None:
    service.write(0, [Record(10 * MINUTE, 10 * MINUTE)], IDS)
    service.now_us = (NOON_MS + 20 * MINUTE) * 1000 - 1
    assert len(service.get("/top-content")["rows"]) == 1
    service.now_us += 1
    assert service.get("/top-content")["rows"] == []
    stats = service.get(f"/content/{IDS[0]}/stats")
    assert stats["rolling"]["events"] == stats["tumbling"]["events"] == 0
    assert sum(stats["minutes"]) == 1


def test_freshness_is_the_age_of_the_newest_counted_event(service: Service) -> None:
    assert service.get("/top-content")["newest_event_ts"] is None
    service.write(0, [Record(15 * MINUTE, 15 * MINUTE)], IDS)
    board = service.get("/top-content")
    assert board["newest_event_ts"] == boards.iso((NOON_MS + 15 * MINUTE) * 1000)
    assert board["age_seconds"] == 30.0
    assert board["as_of"] == boards.iso(service.now_us)


def test_stats_hold_the_fields_and_the_numbers_of_both_boards(service: Service) -> None:
    records = [
        Record(3 * MINUTE, 3 * MINUTE, IDS[0], "finish", 900_000, "ann"),  # 50 %: another window than now
        Record(12 * MINUTE, 12 * MINUTE, IDS[0], "play", None, "ann"),
        Record(13 * MINUTE, 13 * MINUTE, IDS[0], "pause", 1_500, "bob"),
    ]
    service.write(0, records, IDS)
    stats = service.get(f"/content/{IDS[0].upper()}/stats")
    assert {name: value for name, value in stats.items() if name.startswith("content_")} == {
        "content_id": IDS[0],
        "content_slug": "slug",
        "content_title": f"Title {IDS[0]}",
        "content_type": "video",
        "content_length_seconds": 100,
    }
    place = {name: stats["rolling"].pop(name) for name in ("rank", "rank_before")}
    assert place == {"rank": 1, "rank_before": 1}
    assert stats["rolling"].pop("compared_with") == boards.iso(service.now_us - 300_000_000).replace("Z", ".000Z")
    assert stats["no_pct"] == 1
    assert stats["first_minute"] == boards.iso((NOON_MS - 44 * MINUTE) * 1000)
    assert stats["tumbling"] == stats["rolling"] | {
        "start": boards.iso((NOON_MS + 10 * MINUTE) * 1000),
        "end": boards.iso((NOON_MS + 20 * MINUTE) * 1000),
    }
    assert {name: value for name, value in stats["rolling"].items() if name not in ("start", "end")} == {
        "score": 1.5,
        "events": 2,
        "unique_users": 2,
        "engagement_seconds": 1.5,
        "mean_percentage": 0.08,
        "types": {"play": 1, "pause": 1, "finish": 0, "click": 0},
    }
    assert len(stats["minutes"]) == 60
    assert [60 - place for place, events in enumerate(stats["minutes"]) if events] == [13, 4, 3]


def test_a_content_of_a_fresh_start_is_compared_with_nothing(service: Service) -> None:
    service.write(0, [Record(14 * MINUTE, 14 * MINUTE, IDS[0])], IDS)
    rolling = service.get(f"/content/{IDS[0]}/stats")["rolling"]
    assert (rolling["rank"], rolling["rank_before"], rolling["compared_with"]) == (1, None, None)


def test_people_of_a_board_are_counted_once_whatever_they_look_at(service: Service) -> None:
    assert service.reader.people("rolling", service.now_us) == 0
    service.write(
        0,
        [
            Record(3 * MINUTE, 3 * MINUTE, IDS[0], user="gone"),
            Record(8 * MINUTE, 8 * MINUTE, IDS[0], user="ann"),
            Record(12 * MINUTE, 12 * MINUTE, IDS[0], user="bob"),
            Record(12 * MINUTE, 12 * MINUTE, IDS[1], user="bob"),
            Record(12 * MINUTE, 12 * MINUTE, IDS[1], user=None),
            Record(24 * MINUTE, 24 * MINUTE, IDS[1], user="early"),
            Record(13 * MINUTE, 24 * MINUTE, IDS[1], user="late for the minute"),
        ],
        IDS,
    )
    service.write(1, [Record(12 * MINUTE, 12 * MINUTE, "c1", user=user) for user in ("bob", "cid")], [])
    assert service.reader.people("rolling", service.now_us) == 3
    assert service.reader.people("tumbling", service.now_us) == 3


def test_recent_events_are_newest_first_without_users(service: Service) -> None:
    records = [Record(14 * MINUTE + i % 3, 14 * MINUTE + 10, IDS[0], "pause", 1_500, "ann") for i in range(60)]
    records.append(Record(-50 * MINUTE, 14 * MINUTE + 10, IDS[0], "play"))
    service.write(0, records, IDS)
    service.write(1, [Record(15 * MINUTE, 15 * MINUTE, IDS[0], "finish", 900_000)], IDS)
    answer = service.get(f"/content/{IDS[0]}/events")
    assert len(answer["events"]) == 50
    assert answer["events"][0] == {
        "event_id": "e0",
        "event_type": "finish",
        "event_ts": boards.iso((NOON_MS + 15 * MINUTE) * 1000),
        "duration_ms": 900_000,
        "engagement_seconds": 900,
        "engagement_percentage": 50.0,
        "device": None,
        "anomalies": [],
    }
    offsets = [i for remainder in (2, 1, 0) for i in range(59, -1, -1) if i % 3 == remainder]
    assert [event["event_id"] for event in answer["events"][1:]] == [f"e{offset}" for offset in offsets[:49]]
    assert len(service.get(f"/content/{IDS[0]}/events", count=3)["events"]) == 3
    service.now_us += 50 * MINUTE * 1000
    assert service.get(f"/content/{IDS[0]}/events", count=50)["events"][0]["event_id"] == "e0"
    service.now_us += 10 * MINUTE * 1000
    assert service.get(f"/content/{IDS[0]}/events")["events"] == []


def test_a_past_window_keeps_its_board_its_late_count_and_its_state(service: Service) -> None:
    closes = 20 * MINUTE
    records = [Record(0, 0), Record(closes, closes, IDS[1]), Record(MINUTE, closes)]
    service.write(0, records, IDS)
    service.now_us = (NOON_MS + closes) * 1000
    start = boards.iso(NOON_MS * 1000)
    window = service.get(f"/windows/{start}")
    assert (window["state"], window["late_events"], window["events"]) == ("closed", 1, 1)
    assert shown(window) == [(IDS[0], 1000, 1, 0)]
    assert (window["start"], window["end"]) == (start, boards.iso((NOON_MS + 10 * MINUTE) * 1000))
    assert window["minutes"] == [1] + [0] * 9
    current = service.get(f"/windows/{boards.iso((NOON_MS + closes) * 1000)}")
    assert (current["state"], current["events"]) == ("filling", 1)
    before = service.get(f"/windows/{boards.iso((NOON_MS + 10 * MINUTE) * 1000)}")
    assert (before["state"], before["rows"]) == ("late_accepted", [])


def test_a_window_is_kept_for_sixty_minutes(service: Service) -> None:
    service.write(0, [Record(0, 0)], IDS)
    path = f"/windows/{boards.iso(NOON_MS * 1000)}"
    service.now_us = (NOON_MS + 70 * MINUTE) * 1000
    assert service.get(path)["events"] == 1
    service.now_us += 1
    service.get(path, 404)
    service.now_us = (NOON_MS - 1) * 1000
    service.get(path, 404)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/top-content?limit=0", 422),
        ("/top-content?limit=101", 422),
        ("/top-content?window=sliding", 422),
        ("/content//stats", 422),
        (f"/content/{'x' * 65}/stats", 422),
        (f"/content/{'x' * 64}/stats", 404),
        ("/content/a%2Fb/stats", 404),
        (f"/content/{IDS[0]}/events?count=51", 422),
        ("/windows/2025-08-10T14:30:00", 422),
        ("/windows/soon", 422),
        ("/windows/2025-08-10T14:30:01Z", 404),
    ],
)
def test_questions_that_have_no_answer(service: Service, path: str, status: int) -> None:
    answer = service.get(path, status)
    assert answer["detail"]


def test_metrics_are_counted_by_the_totals(service: Service) -> None:
    closes = 20 * MINUTE
    service.write(0, [Record(closes, closes), Record(0, closes)], IDS)
    service.write(1, [Record(closes, closes)], IDS)
    service.look()
    metrics = service.get("/metrics")
    assert {name: metrics[name] for name in metrics if name.endswith("_total")} == {
        "processed_events_total": 3,
        "late_events_total": 1,
        "rejected_events_total": 0,
        "skipped_events_total": 0,
        "sink_errors_total": {},
    }
    assert metrics["processing_latency_seconds"] is None
    said = {"errors": 2, "latency_seconds_sum": 3.0, "latency_count": 4, "breaker": "closed", "error": ""}
    for name in ("one", "two"):
        service.status.write(
            name,
            {"sinks": json.dumps({"partner": said}), "partitions": json.dumps([{"partition": 0, "lag_seconds": 1.5}])},
        )
    service.look()
    metrics = service.get("/metrics")
    assert metrics["sink_errors_total"] == {"partner": 4}
    assert metrics["processing_latency_seconds"] == 0.75
    assert metrics["kafka_lag_seconds"] == 1.5
    assert sorted(service.get("/health")["processes"]) == ["one", "two"]
    text = service.ask("/metrics/prometheus").text
    assert '\nsink_errors_total{sink="partner"} 4.0\n' in text
    assert "\nprocessed_events_total 3.0\n" in text
    assert "\nlate_events_total 1.0\n" in text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {name: family.type for name, family in families.items()} == {
        "processed_events": "counter",
        "late_events": "counter",
        "rejected_events": "counter",
        "skipped_events": "counter",
        "sink_errors": "counter",
        "processing_latency_seconds": "gauge",
        "processing_latency_seconds_by_sink": "gauge",
        "kafka_lag_seconds": "gauge",
        "events_per_second": "gauge",
        "api_request_seconds": "histogram",
    }
    for name, value in metrics.items():
        if isinstance(value, int | float):
            assert [sample.value for sample in families[name.removesuffix("_total")].samples] == [value]


def test_while_the_capture_is_behind_the_board_is_not_called_live(service: Service) -> None:
    service.write(0, [Record(0, 0)], IDS)
    began = service.now_us / 1e6
    for second in range(11):
        process = {"now": second, "ready": True}
        flow = {"process": process, "sinks": {"redis": {}}, "partitions": [{"partition": 0, "end": 1}]}
        capture = {"process": process, "capture": {"lag_seconds": 300 - 20 * second}}
        for name, said in (("redis.0", flow), ("capture.engagement", capture)):
            service.status.write(name, {section: json.dumps(value) for section, value in said.items()})
        assert service.observer.look_at_redis(began + second)
    phase = service.observer.phase(began + 10)
    assert (phase.phase, phase.status) == ("catching_up", "degraded")
    assert phase.sentence.startswith("This board is about 2 min behind and will be live in about 5 s. New rows wait in")
    assert service.observer.services(began + 10)["postgres"] == "ok"


def test_without_redis_the_answer_says_so(redis_server: Any, unique: str) -> None:
    service = Service(redis_server.url, unique)
    service.write(0, [Record(0, 0)], IDS)
    redis_server.stop()
    assert "Redis does not answer" in service.get("/top-content", 503)["detail"]


def test_positions_tell_where_each_partition_stands(service: Service) -> None:
    service.write(2, [Record(0, 0)], IDS)
    service.sink.claim(PartitionId(PARTITION.topic, PARTITION.topic_id, 5), "owner")
    positions = service.reader.positions()
    assert [(each.partition, each.offset_next) for each in positions] == [(2, 1), (5, None)]
    assert service.sink.load(Span(PARTITION, "owner", 0, 0)).offset_next is None
    assert CONTENTS.rows[1] is not None
