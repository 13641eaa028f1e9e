"""Who spoke last, and for how long nobody has."""

import json

from api.processes import FORGOTTEN_S, Processes

T = 1_800_000_000.0


def said(at: float, sink: str = "redis", waiting: str = "") -> dict[str, str]:
    values = {"process": {"now": at, "waiting": waiting}, "sinks": {sink: {"error": ""}}, "partitions": []}
    return {name: json.dumps(value) for name, value in values.items()}


def test_silence_is_counted_from_the_last_word_not_from_the_expiry_of_its_hash() -> None:
    processes = Processes(T)
    for second in range(12):
        processes.read({"redis.0-3": said(T)}, T + second)  # the same words: nobody spoke
    assert processes.silent_s(processes.with_sink("redis"), T + 11) == 11
    processes.read({"redis.0-3": said(T + 12)}, T + 12)
    assert processes.silent_s(processes.with_sink("redis"), T + 12) == 0


def test_one_that_never_spoke_is_silent_since_we_listen() -> None:
    processes = Processes(T)
    processes.read({}, T + 3)
    assert processes.silent_s(processes.with_sink("partner"), T + 3) == 3


def test_while_redis_is_away_nobody_is_silent() -> None:
    processes = Processes(T)
    processes.read({"redis.0-3": said(T)}, T)
    assert processes.silent_s(processes.with_sink("redis"), T + 300) <= 5
    processes.read({}, T + 300)  # it is back, and its processes have not spoken yet
    assert processes.silent_s(processes.with_sink("redis"), T + 300) <= 5
    processes.read({}, T + 301)
    assert processes.silent_s(processes.captures(), T + 301) <= 5


def test_the_dead_are_remembered_for_a_while_and_not_counted_as_living() -> None:
    processes = Processes(T)
    processes.read({"redis.0-3": said(T)}, T)
    for second in range(1, int(FORGOTTEN_S) + 2):
        processes.read({}, T + second)
        if second == 20:
            assert processes.living(T + second) == {}
            assert processes.sinks() == {"redis"}
    assert processes.sinks() == set()


def test_a_capture_is_no_sink() -> None:
    processes = Processes(T)
    processes.read({"capture.engagement": {"process": json.dumps({"now": T})}}, T)
    assert [each.name for each in processes.captures()] == ["capture.engagement"]
    assert processes.sinks() == set()
