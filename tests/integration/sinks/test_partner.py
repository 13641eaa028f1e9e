"""The sink against a real HTTP partner: every refusal and every failure of promise 8; positions are a fake."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from engagement.enrich import Contents, enrich
from engagement.parse import parse
from engagement.partner_body import partner_body, partner_events
from sinks.fenced_commit import Committed
from sinks.partner import PartnerSink
from sinks.partner_client import PartnerClient, Unavailable
from sources.kafka_records import Records
from sources.positions import Span
from tests.fakes.partner_events import (
    IMPATIENT,
    Abandoned,
    abandon,
    batch,
    body,
    event_id,
    partition_id,
    values,
)
from tests.fakes.partner_server import Receiver, receiver_thread
from tests.fakes.positions import FakeBroker, FakeFencedCommit

TIMEOUT_S = 1.0


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with receiver_thread(tmp_path / "partner.sqlite3", token="secret") as running:
        yield running


@pytest.fixture
def broker() -> FakeBroker:
    broker = FakeBroker()
    broker.positions[0] = Committed(0, "", broker.now)
    return broker


def sink_to(
    url: str,
    broker: FakeBroker,
    *,
    token: str = "secret",
    batch_size: int = 10,
    timeout_s: float = TIMEOUT_S,
    stopping: Callable[[], bool] = lambda: False,
    values: Callable[..., Sequence[Any]] = values,
    body: Callable[..., bytes] = body,
) -> PartnerSink:
    sink = PartnerSink(
        url,
        token,
        batch_size=batch_size,
        timeout_s=timeout_s,
        values=values,
        body=body,
        position=lambda partition: FakeFencedCommit(broker, partition),
        dead_letters="letters",
        stopping=stopping,
        abandon=abandon,
        patience=replace(IMPATIENT, wait_s=0.02, wait_s_max=0.1),
    )
    sink.claim(partition_id(), "me")
    return sink


def ids(*offsets: int) -> list[str]:
    return [event_id(0, offset) for offset in offsets]


def test_the_partner_holds_every_event_once_in_order(receiver: Receiver, broker: FakeBroker) -> None:
    sink = sink_to(receiver.url, broker)
    sink.write([batch(0, 25), batch(25, 31)])
    sink.write([batch(31, 31)])
    assert receiver.effects() == ids(*range(31))
    assert receiver.stats() == {"events": 31, "effects": 31, "requests": 4, "conflicts": 0}
    assert broker.positions[0].offset_next == 31


def test_one_connection_serves_all_requests(broker: FakeBroker) -> None:
    connections = []

    def count(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                connections.append(connection)
                threading.Thread(target=answer_all, args=(connection,), daemon=True).start()

    with listening(count) as url:
        sink_to(url, broker, batch_size=1).write([batch(0, 5)])
    assert len(connections) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 408, 425, 429, 500, 502, 503, 504])
def test_a_passing_failure_delays_and_loses_nothing(receiver: Receiver, broker: FakeBroker, status: int) -> None:
    receiver.behave(status=status, times=5)
    sink_to(receiver.url, broker).write([batch(0, 15)])
    assert receiver.effects() == ids(*range(15))
    assert broker.letters == []


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_a_failure_after_the_effect_doubles_nothing(receiver: Receiver, broker: FakeBroker, status: int) -> None:
    receiver.behave(status=status, times=2, applied=True)
    sink_to(receiver.url, broker).write([batch(0, 15)])
    assert receiver.effects() == ids(*range(15))
    keys = [key for key, _, _ in receiver.requests()]
    assert keys[0] == keys[1] == keys[2]


@pytest.mark.parametrize("known", [200, 409])
def test_a_timeout_after_the_effect_doubles_nothing(receiver: Receiver, broker: FakeBroker, known: int) -> None:
    receiver.behave(status=200, times=1, applied=True, delay_s=0.6, known_status=known)
    sink_to(receiver.url, broker, timeout_s=0.2).write([batch(0, 15)])
    assert receiver.effects() == ids(*range(15))
    [first, second] = receiver.requests()[:2]
    assert first[:2] == second[:2]
    assert second[2] == known


def test_a_timeout_before_the_effect_loses_nothing(receiver: Receiver, broker: FakeBroker) -> None:
    receiver.behave(status=503, times=1, delay_s=0.6)
    sink_to(receiver.url, broker, timeout_s=0.2).write([batch(0, 5)])
    assert receiver.effects() == ids(*range(5))


def test_retry_after_in_seconds_is_honoured(receiver: Receiver, broker: FakeBroker) -> None:
    receiver.behave(status=429, times=1, retry_after="1")
    began = time.monotonic()
    sink_to(receiver.url, broker).write([batch(0, 1)])
    assert time.monotonic() - began >= 1
    assert receiver.effects() == ids(0)


def test_a_redirect_is_refused_and_the_token_goes_nowhere(receiver: Receiver, broker: FakeBroker) -> None:
    receiver.behave(status=307, location="http://127.0.0.1:1/elsewhere")
    with pytest.raises(Unavailable, match="elsewhere"):
        PartnerClient(receiver.url, "secret", TIMEOUT_S).post(b'[{"event_id":"e"}]', "k")


def test_a_wrong_token_pauses_and_says_so(receiver: Receiver, broker: FakeBroker) -> None:
    asked: list[int] = []

    def stopping() -> bool:
        asked.append(1)
        return len(asked) > 4

    sink = sink_to(receiver.url, broker, token="wrong", stopping=stopping)
    with pytest.raises(Abandoned):
        sink.write([batch(0, 5)])
    assert "EXTERNAL_API_TOKEN" in str(sink.last_error)
    assert sink.breaker_open
    assert broker.letters == []
    assert broker.positions[0].offset_next == 0


@pytest.mark.parametrize("status", [400, 413, 422])
def test_refused_events_become_dead_letters_and_no_others(receiver: Receiver, broker: FakeBroker, status: int) -> None:
    wrong = [3, 4, 17, 29]
    receiver.behave(refusals=dict.fromkeys(ids(*wrong), status))
    sink = sink_to(receiver.url, broker, batch_size=10)
    sink.write([batch(0, 30)])
    sink.write([batch(30, 30)])
    assert receiver.effects() == ids(*(offset for offset in range(30) if offset not in wrong))
    assert [int(dict(letter.headers)["offset"]) for letter in broker.letters] == wrong
    assert broker.positions[0].offset_next == 30


def test_413_by_size_splits_and_refuses_nothing(receiver: Receiver, broker: FakeBroker) -> None:
    receiver.behave(events_max=3)
    sink_to(receiver.url, broker, batch_size=20).write([batch(0, 20)])
    assert receiver.effects() == ids(*range(20))
    assert broker.letters == []


def test_twenty_in_a_row_wait_for_the_partner_and_go_on_when_it_is_mended(
    receiver: Receiver, broker: FakeBroker, wait_for: Callable[..., object]
) -> None:
    receiver.behave(refusals=dict.fromkeys(ids(*range(40)), 422))
    sink = sink_to(receiver.url, broker, batch_size=500)
    writing = threading.Thread(target=sink.write, args=([batch(0, 40)],))
    writing.start()
    wait_for(lambda: sink.breaker_open, message="the breaker to open")
    assert len(broker.letters) == 19
    receiver.behave()
    writing.join(20)
    assert not sink.breaker_open
    assert receiver.effects() == ids(*range(19, 40))
    assert len(broker.letters) == 19


def test_real_events_arrive_as_the_interface_shows_them(receiver: Receiver, broker: FakeBroker) -> None:
    """Kafka records -> parse -> enrich -> this sink: one is a replayed dead letter of the partner, one is addressed
    to another sink, one rejected."""
    content_id = "123e4567-e89b-12d3-a456-426614174000"
    event = {
        "id": 1,
        "content_id": content_id,
        "user_id": "user_alice_2025",
        "event_type": "pause",
        "event_ts": "2025-08-10T14:30:25Z",
        "duration_ms": 900000,
        "device": "mobile",
    }
    original = [("event_id", b"77"), ("kafka_timestamp", b"1754836225000")]
    records = Records(
        Span(partition_id(), "me", 0, 5),
        np.arange(4, dtype=np.int64),
        [None] * 4,
        [json.dumps(event).encode()] * 3 + [b"{}"],
        np.full(4, 1754836225999, np.int64),
        [None, [("for", b"partner"), *original], [("for", b"bigquery"), *original], None],
    )
    contents = Contents()
    contents.put([(content_id, "intro", "Introduction to Data Engineering", "video", 1800)])
    sink = sink_to(receiver.url, broker, values=partner_events, body=partner_body)
    sink.write([enrich(parse(records), contents)])
    sink.write([enrich(parse(records_of_nothing(5)), contents)])
    assert receiver.effects() == ["1", "77"]
    sent = json.loads(receiver.rows("SELECT body FROM effects")[0][0])
    assert sent["content_title"] == "Introduction to Data Engineering"
    assert (sent["engagement_seconds"], sent["engagement_percentage"]) == (900, 50.0)
    assert sent["processed_at"] == "2025-08-10T14:30:25Z"
    assert broker.positions[0].offset_next == 5


def records_of_nothing(at: int) -> Records:
    empty = np.array([], np.int64)
    return Records(Span(partition_id(), "me", at, at), empty, [], [], empty, [])


# Below HTTP


@contextlib.contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def answer_all(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while request := connection.recv(65536):
            if b"}" in request:
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


def failing_first(*failures: bytes | None) -> Callable[[socket.socket], None]:
    """For each connection these bytes and the end of it (None: silence); healthy after that."""

    def serve(server: socket.socket) -> None:
        kept = []
        with contextlib.suppress(OSError):
            for failure in failures:
                connection, _ = server.accept()
                kept.append(connection)
                if failure is not None:
                    connection.recv(65536)
                    connection.sendall(failure)
                    connection.close()
            while True:
                connection, _ = server.accept()
                kept.append(connection)
                threading.Thread(target=answer_all, args=(connection,), daemon=True).start()

    return serve


@pytest.mark.parametrize(
    "failure",
    [
        b"",
        None,
        b"not http\r\n\r\n",
        b"HTTP/1.1 200",
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 10\r\n\r\nab",
    ],
    ids=["closed", "silent", "garbage", "half a status line", "cut 503"],
)
def test_failures_of_the_connection_are_waited_for(broker: FakeBroker, failure: bytes | None) -> None:
    with listening(failing_first(failure, failure)) as url:
        sink = sink_to(url, broker, timeout_s=0.3)
        sink.write([batch(0, 2)])
    assert sink.last_error is None
    assert broker.letters == []


def test_a_partner_that_is_not_there_is_named(broker: FakeBroker) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unavailable, match="ConnectError"):
        PartnerClient(f"http://127.0.0.1:{port}/", "secret", TIMEOUT_S).post(b"[]", "k")


# The receiver itself


def post(receiver: Receiver, key: str, body: str, token: str = "secret") -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": key}
    return httpx.post(receiver.url, content=body, headers=headers, trust_env=False)


def test_the_receiver_honours_keys(receiver: Receiver) -> None:
    assert post(receiver, "a", '[{"event_id":"1"}]').status_code == 200
    assert post(receiver, "a", '[{"event_id":"1"}]').status_code == 200
    assert receiver.stats()["effects"] == 1
    assert post(receiver, "a", '[{"event_id":"2"}]').status_code == 409
    assert receiver.stats() == {"events": 1, "effects": 1, "requests": 3, "conflicts": 1}
    assert post(receiver, "b", '{"event_id":"1"}').status_code == 200
    assert receiver.rows("SELECT event_id, effects FROM events") == [("1", 2)]


def test_the_receiver_refuses_what_a_partner_would(receiver: Receiver) -> None:
    assert post(receiver, "a", "[]", token="other").status_code == 401
    assert post(receiver, "", "[]").status_code == 428
    assert post(receiver, "a", "[{]").status_code == 400
    assert post(receiver, "a", '[{"id":"1"}]').status_code == 400
