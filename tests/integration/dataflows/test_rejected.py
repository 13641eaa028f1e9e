"""Broken records among good ones: the good are counted, each broken one is a dead letter that says what to fix."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.pipeline import Pipeline, events

NOW = datetime.now(UTC)
GOOD: dict[str, Any] = {
    "content_id": "123e4567-e89b-12d3-a456-426614174000",
    "event_type": "play",
    "event_ts": NOW.isoformat(),
}
ENVELOPE = {"before": None, "source": {}, "op": "c", "ts_ms": 1}


def without(name: str) -> dict[str, Any]:
    return {field: value for field, value in GOOD.items() if field != name}


# What is broken -> (the record, the reason it must carry, a word that its detail must hold)
BROKEN: dict[str, tuple[bytes | dict[str, Any], str, str]] = {
    "not JSON": (b"hello", "not_json", "JSON"),
    "cut off": (b'{"content_id": "a", "event_', "not_json", "JSON"),
    "empty": (b"", "not_json", "JSON"),
    "an array": (b"[1, 2]", "not_an_object", "object"),
    "a number": (b"42", "not_an_object", "object"),
    "a string": (b'"play"', "not_an_object", "object"),
    "broken UTF-8": (b'{"content_id": "\xff\xfe", "event_type": "play"}', "not_utf8", "UTF-8"),
    "broken UTF-8 in the payload": (
        b'{"content_id": null, "event_type": "play", "raw_payload": {"a": "\xff"}}',
        "not_utf8",
        "UTF-8",
    ),
    "byte order mark": (b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), "byte_order_mark", "byte order mark"),
    "nested too deep": (
        b'{"content_id": null, "event_type": "play", "raw_payload": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        "nested_too_deep",
        "levels",
    ),
    "no content_id": (without("content_id"), "missing_content_id", "content_id"),
    "a number as content_id": (GOOD | {"content_id": 7}, "wrong_content_id", "content_id"),
    "an empty content_id": (GOOD | {"content_id": ""}, "wrong_content_id", "content_id"),
    "a long content_id": (GOOD | {"content_id": "x" * 65}, "wrong_content_id", "content_id"),
    "no event_type": (without("event_type"), "missing_event_type", "event_type"),
    "an unknown event_type": (GOOD | {"event_type": "like"}, "wrong_event_type", "event_type"),
    "event_type null": (GOOD | {"event_type": None}, "wrong_event_type", "event_type"),
    "event_type in capitals": (GOOD | {"event_type": "PLAY"}, "wrong_event_type", "event_type"),
    "a fraction as id": (GOOD | {"id": 1.5}, "wrong_id", "id"),
    "an empty id": (GOOD | {"id": ""}, "wrong_id", "id"),
    "an id beyond 64 bits": (GOOD | {"id": 2**64}, "wrong_id", "id"),
    "a number as user_id": (GOOD | {"user_id": 12}, "wrong_user_id", "user_id"),
    "a long user_id": (GOOD | {"user_id": "u" * 129}, "wrong_user_id", "user_id"),
    "event_ts without zone": (GOOD | {"event_ts": "2026-01-01T00:00:00"}, "wrong_event_ts", "event_ts"),
    "event_ts as a number": (GOOD | {"event_ts": 1_700_000_000}, "wrong_event_ts", "event_ts"),
    "a day that does not exist": (GOOD | {"event_ts": "2026-02-30T00:00:00Z"}, "wrong_event_ts", "event_ts"),
    "an event of tomorrow": (
        GOOD | {"event_ts": (NOW + timedelta(days=1)).isoformat()},
        "event_ts_in_future",
        "5 minutes",
    ),
    "an event of ten years ago": (
        GOOD | {"event_ts": (NOW - timedelta(days=3660)).isoformat()},
        "event_ts_too_old",
        "5 years",
    ),
    "a negative duration": (GOOD | {"duration_ms": -1}, "wrong_duration_ms", "duration_ms"),
    "a duration of two days": (GOOD | {"duration_ms": 172_800_000}, "wrong_duration_ms", "duration_ms"),
    "a duration with exponent": (
        json.dumps(GOOD).encode()[:-1] + b', "duration_ms": 1e3}',
        "wrong_duration_ms",
        "duration_ms",
    ),
    "a long device": (GOOD | {"device": "d" * 65}, "wrong_device", "device"),
    "an envelope without a row": (ENVELOPE | {"after": None}, "wrong_envelope", "after"),
}


def test_thirty_kinds_of_broken_record_among_good_ones(pipeline: Pipeline) -> None:
    assert len(BROKEN) >= 30
    raw = [value if isinstance(value, bytes) else json.dumps(value).encode() for value, _, _ in BROKEN.values()]
    good = events(pipeline.contents, 50 * len(raw))
    mixed: list[bytes | dict[str, Any]] = []
    for number, broken in enumerate(raw):
        mixed += [*good[50 * number : 50 * number + 50], broken]
    pipeline.provision(SINKS="redis,dead_letters")
    pipeline.produce(mixed)
    flow = pipeline.start(SINKS="redis,dead_letters")
    pipeline.caught_up()
    assert flow.stop() == 0, flow.said()
    expected = pipeline.expected(rejected=set(raw).__contains__)
    assert sum(row[0] for rows in expected.windows.values() for row in rows.values()) + sum(
        expected.late.values()
    ) == len(good)
    pipeline.assert_equal(rejected=set(raw).__contains__)

    letters = pipeline.records(pipeline.letters)
    assert sorted(message.value() or b"" for message in letters) == sorted(raw)
    where = {message.value() or b"": (message.partition(), message.offset()) for message in pipeline.records()}
    by_value = {message.value() or b"": dict(message.headers()) for message in letters}
    for (name, (_, reason, word)), value in zip(BROKEN.items(), raw, strict=True):
        headers = {key: text.decode() for key, text in by_value[value].items()}
        assert headers["reason"] == reason, name
        assert word in headers["detail"], (name, headers["detail"])
        assert headers["sink"] == "parse"
        assert (headers["topic"], int(headers["partition"]), int(headers["offset"])) == (
            pipeline.topic,
            *where[value],
        ), name
        assert datetime.fromisoformat(headers["rejected_at"]).tzinfo is not None


def test_a_second_run_over_the_same_records_writes_no_letter_twice(
    pipeline: Pipeline, wait_for: Callable[..., Any]
) -> None:
    pipeline.provision(SINKS="redis,dead_letters")
    pipeline.produce([b"broken", *events(pipeline.contents, 20), b"broken too"])
    for _ in range(3):
        flow = pipeline.start(SINKS="redis,dead_letters")
        pipeline.claimed(flow)
        pipeline.caught_up()
        wait_for(lambda: pipeline.sink_positions("dead_letters") == pipeline.ends(), timeout=60, message="the letters")
        flow.kill()
        pipeline.forget_recovery()
    flow = pipeline.start(SINKS="redis,dead_letters")
    pipeline.claimed(flow)
    pipeline.caught_up()
    assert flow.stop() == 0
    assert sorted(message.value() for message in pipeline.records(pipeline.letters)) == [b"broken", b"broken too"]
