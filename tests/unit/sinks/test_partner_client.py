"""One request to the partner: which answers are about the events, and how an outage is waited for."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

import metrics
from sinks import partner_client
from sinks.partner_client import Answer, Leaving, PartnerClient, PatientPartner, Unavailable, Verdict
from tests.fakes.partner_events import IMPATIENT


def client(answer: Callable[[httpx.Request], httpx.Response]) -> PartnerClient:
    return PartnerClient("http://partner.test/events", "secret", 1, transport=httpx.MockTransport(answer))


def answering(status: int, **response: Any) -> PartnerClient:
    return client(lambda request: httpx.Response(status, **response))


@pytest.mark.parametrize("status", [200, 201, 202, 204, 207, 299, 409])
def test_any_2xx_and_409_mean_that_the_partner_has_the_events(status: int) -> None:
    assert answering(status).post(b"[]", "k").verdict is Verdict.ACCEPTED


@pytest.mark.parametrize(
    ("status", "verdict"), [(400, Verdict.REFUSED), (422, Verdict.REFUSED), (413, Verdict.TOO_LARGE)]
)
def test_400_413_and_422_are_about_the_events(status: int, verdict: Verdict) -> None:
    answer = answering(status, text="event 3:\n  duration\x00is wrong").post(b"[]", "k")
    assert answer == Answer(verdict, status, "event 3: duration is wrong")


@pytest.mark.parametrize(
    "status", [301, 302, 307, 308, 401, 402, 403, 404, 405, 408, 410, 415, 418, 423, 425, 428, 429, 500, 502, 503, 504]
)
def test_every_other_answer_is_waited_for(status: int) -> None:
    with pytest.raises(Unavailable, match=str(status)):
        answering(status).post(b"[]", "k")


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout("slow"),
        httpx.ReadTimeout("slow"),
        httpx.WriteTimeout("slow"),
        httpx.PoolTimeout("slow"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("closed"),
    ],
)
def test_network_failures_and_timeouts_are_waited_for(failure: Exception) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise failure

    with pytest.raises(Unavailable, match=type(failure).__name__):
        client(fail).post(b"[]", "k")


def test_a_redirect_is_not_followed_and_the_words_name_the_setting() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(307, headers={"location": "http://elsewhere.test/"})

    with pytest.raises(Unavailable, match=r"elsewhere\.test.*EXTERNAL_API_URL"):
        client(answer).post(b"[]", "k")
    assert seen == ["http://partner.test/events"]


def test_a_wrong_token_is_said_in_words() -> None:
    with pytest.raises(Unavailable, match="EXTERNAL_API_TOKEN"):
        answering(401).post(b"[]", "k")


@pytest.mark.parametrize("token", ["line\nend", "ends\r", " space", "ümlaut", "nul\x00"])
def test_a_token_that_no_header_can_carry_is_refused_at_once(token: str) -> None:
    with pytest.raises(ValueError, match="EXTERNAL_API_TOKEN"):
        PartnerClient("http://partner.test/", token, 1)


def test_the_request_carries_token_key_and_type() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    client(answer).post(b'[{"a":1}]', "the-key")
    [request] = seen
    assert request.method == "POST"
    assert request.content == b'[{"a":1}]'
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["idempotency-key"] == "the-key"
    assert request.headers["content-type"] == "application/json"


def test_an_acceptance_whose_body_breaks_off_is_an_acceptance() -> None:
    def broken() -> Iterator[bytes]:
        yield b"tak"
        raise httpx.ReadError("reset")

    assert answering(200, content=broken()).post(b"[]", "k") == Answer(Verdict.ACCEPTED, 200, "")


def test_an_endless_body_is_left() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 1000

    assert answering(422, content=endless()).post(b"[]", "k").verdict is Verdict.REFUSED


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("7", 7, 7),
        ("0", 0, 0),
        ("in 100 s", 90, 100),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0, 0),
        ("soon", 0, 0),
        ("-5", 0, 0),
        ("", 0, 0),
        ("999999999999", 3600, 3600),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_at_most_an_hour(value: str, low: float, high: float) -> None:
    if value == "in 100 s":  # a date as of now, not of when the tests were collected
        value = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    with pytest.raises(Unavailable) as caught:
        answering(429, headers={"retry-after": value}).post(b"[]", "k")
    assert low <= caught.value.retry_after_s <= high


def believing(answer: Answer) -> None:
    """No refusal is held back."""


def patient(answers: list[int], **others: Any) -> tuple[PatientPartner, list[int]]:
    left = list(answers)
    sent: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(left[0] if len(left) == 1 else left.pop(0))
        return httpx.Response(sent[-1], headers=others.get("headers"))

    stopping = others.get("stopping", lambda: False)
    return PatientPartner(client(answer), IMPATIENT, stopping=stopping), sent


def test_an_outage_opens_the_breaker_and_the_first_acceptance_closes_it() -> None:
    """What promise 8 needs of pybreaker: closed through fewer failures, open from the third, one try at a time
    while open, closed by a success, and nothing refused by the breaker itself."""
    states: list[tuple[int, bool, float]] = []
    partner: PatientPartner

    def answer(request: httpx.Request) -> httpx.Response:
        gauge = metrics.BREAKER.labels("partner")._value.get()
        states.append((len(states) + 1, partner.breaker_open, gauge))
        return httpx.Response(503 if len(states) <= 6 else 200)

    partner = PatientPartner(client(answer), IMPATIENT, stopping=lambda: False)
    errors = metrics.SINK_ERRORS.labels("partner")._value.get()
    assert partner.deliver(b"[]", "k", believing).verdict is Verdict.ACCEPTED
    assert states == [(n, n > 3, float(n > 3)) for n in range(1, 8)]
    assert not partner.breaker_open
    assert metrics.BREAKER.labels("partner")._value.get() == 0
    assert metrics.SINK_ERRORS.labels("partner")._value.get() - errors == 6
    assert partner.last_error is None


def test_a_clock_set_back_does_not_keep_the_breaker_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """pybreaker's own reset timeout goes by the wall clock; the sink does not depend on it."""
    partner, sent = patient([503, 503, 503, 503, 200])
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    opened_at = property(lambda storage: tomorrow, lambda storage, value: None)
    monkeypatch.setattr(partner._breaker._state_storage.__class__, "opened_at", opened_at)
    assert partner.deliver(b"[]", "k", believing).status == 200
    assert sent == [503, 503, 503, 503, 200]


def test_refusals_do_not_open_the_breaker() -> None:
    partner, _ = patient([422])
    for _ in range(10):
        assert partner.deliver(b"[]", "k", believing).verdict is Verdict.REFUSED
    assert not partner.breaker_open


def test_a_request_is_repeated_byte_for_byte_under_its_key() -> None:
    seen: list[tuple[str, bytes]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.headers["idempotency-key"], request.content))
        return httpx.Response(500 if len(seen) < 4 else 200)

    partner = PatientPartner(client(answer), IMPATIENT, stopping=lambda: False)
    partner.deliver(b"[1]", "k", believing)
    assert seen == [("k", b"[1]")] * 4


def test_retry_after_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(partner_client.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(partner_client.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    sent_at: list[float] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent_at.append(clock[0])
        return httpx.Response(429, headers={"retry-after": "30"}) if len(sent_at) == 1 else httpx.Response(200)

    partner = PatientPartner(client(answer), IMPATIENT, stopping=lambda: False)
    partner.deliver(b"[]", "k", believing)
    assert sent_at[1] - sent_at[0] >= 30


def test_a_stop_ends_an_outage_and_a_long_retry_after(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [0]

    def stopping() -> bool:
        asked[0] += 1
        return asked[0] > 3

    partner, sent = patient([503], headers={"retry-after": "3000"}, stopping=stopping)
    with pytest.raises(Leaving):
        partner.deliver(b"[]", "k", believing)
    assert sent == [503]
    assert "503" in str(partner.last_error)


def test_positions_are_kept_while_waiting() -> None:
    kept: list[int] = []
    left = [503, 503, 200]
    partner = PatientPartner(
        client(lambda request: httpx.Response(left.pop(0))),
        IMPATIENT,
        stopping=lambda: False,
    )
    partner.deliver(b"[]", "k", believing, lambda: kept.append(1))
    assert kept == [1, 1]


def test_requests_are_under_way_side_by_side_and_in_an_outage_one_at_a_time() -> None:
    under_way, most, outage = [0], [0], threading.Event()
    both = threading.Barrier(2)

    def answer(request: httpx.Request) -> httpx.Response:
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        if not outage.is_set():
            both.wait(10)
        time.sleep(0)
        under_way[0] -= 1
        return httpx.Response(503 if outage.is_set() and next(failures) else 200)

    failures = iter([True] * 40 + [False] * 10)
    partner = PatientPartner(client(answer), IMPATIENT, stopping=lambda: False)

    def twice() -> None:
        with ThreadPoolExecutor(2) as threads:
            for done in [threads.submit(partner.deliver, b"[]", "k", believing) for _ in range(2)]:
                done.result(20)

    twice()
    assert most == [2]
    partner._breaker.open()
    most[0] = 0
    outage.set()
    twice()
    assert most == [1]


def test_a_request_that_is_accepted_while_the_breaker_opens_is_accepted() -> None:
    partner: PatientPartner

    def answer(request: httpx.Request) -> httpx.Response:
        partner._breaker.open()  # by another request's failure
        return httpx.Response(200)

    partner = PatientPartner(client(answer), IMPATIENT, stopping=lambda: False)
    assert partner.deliver(b"[]", "k", believing).verdict is Verdict.ACCEPTED
    assert not partner.breaker_open


def test_what_the_partner_asked_of_one_request_is_waited_for_by_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(partner_client.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(partner_client.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    stopped = [False, True]
    partner, sent = patient([429, 200], headers={"retry-after": "30"}, stopping=lambda: stopped.pop(0))
    with pytest.raises(Leaving):
        partner.deliver(b"[]", "k", believing)
    stopped += [False] * 400
    began, proofs = clock[0], [0]
    partner.deliver(b"[]", "other", believing, lambda: proofs.append(1))
    assert clock[0] - began >= 29
    assert len(proofs) == 2  # it waited, so its proof of ownership is old
    assert sent == [429, 200]


@pytest.mark.parametrize(("no_proxy", "through"), [("", True), ("partner.test", False)])
def test_the_proxy_of_the_environment_is_used_unless_it_excepts_the_partner(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, through: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy, ThreadPoolExecutor(1) as threads:
        proxy.settimeout(5)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", no_proxy)

        def answered() -> bytes:
            connection, _ = proxy.accept()
            with connection:
                asked = connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            return asked

        client = PartnerClient("http://partner.test/events", "secret", 1)
        if through:
            asked = threads.submit(answered)
            assert client.post(b"[]", "k").verdict is Verdict.ACCEPTED
            assert asked.result(5).startswith(b"POST http://partner.test/events HTTP/1.1\r\n")
        else:
            with pytest.raises(Unavailable, match="ConnectError"):  # there is no such host
                client.post(b"[]", "k")
