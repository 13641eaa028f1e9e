"""The partner's API over HTTP: one request, what its answer means, and patience until there is an answer.

Only 400, 413 and 422 are about the events; every other failure is about the partner, the network or our settings, and
is waited for: with backoff and jitter, without end, in words, behind a breaker that /health shows.
"""

import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any, NoReturn

import httpx
import pybreaker
import structlog

import metrics
from sinks.masking import without_values
from sinks.repetition import repeated

log = structlog.get_logger()

SINK = "partner"
REFUSED_IN_A_ROW_MAX = 20  # so many events refused alone, none accepted between: it is not about the events
RETRY_AFTER_S_MAX = 3600.0  # a longer Retry-After is asked again every hour
ANSWER_BYTES_MAX = 64 * 1024  # of an answer's body: enough for words, no matter what the partner sends
WORDS_MAX = 300
STOP_SEEN_S = 0.1

REMEDIES = {
    401: "check EXTERNAL_API_TOKEN",
    403: "check EXTERNAL_API_TOKEN and what it may do",
    404: "check EXTERNAL_API_URL",
    405: "check EXTERNAL_API_URL",
}


class Verdict(Enum):
    """What an answer says about the events of its request; of what is no acceptance, the reason code of its letter."""

    ACCEPTED = "accepted"  # the partner has them: any 2xx, or 409 (it knew them already)
    REFUSED = "refused"  # one of them, or the only one, is refused for what it is: 400, 422
    TOO_LARGE = "too_large"  # the request is too large: 413


VERDICTS = {400: Verdict.REFUSED, 409: Verdict.ACCEPTED, 413: Verdict.TOO_LARGE, 422: Verdict.REFUSED}


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer about the events; `words` is the beginning of its body, one line, without the values that we sent."""

    verdict: Verdict
    status: int
    words: str

    @property
    def detail(self) -> str:
        """What to do about the event that was refused so, alone."""
        words = f": {self.words}" if self.words else ""
        if self.verdict is Verdict.TOO_LARGE:
            remedy = "Shorten it, or agree on a larger size."
        else:
            remedy = "Correct the event, then replay it."
        return f"The partner answered {self.status} to this event alone{words}. {remedy}"


class Unavailable(Exception):
    """No answer about the events: the text says why; they must be sent again. `retry_after_s` as the partner asked."""

    def __init__(self, why: str, retry_after_s: float = 0.0) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s


class _Refusal(Exception):
    """An answer that is no acceptance, on its way through the breaker."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.words)
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait between tries, and after how many failures in a row the breaker opens. Seconds.

    wait_s_max + jitter_s bounds how long a stop request goes unseen."""

    wait_s: float = 0.2
    wait_s_max: float = 5.0
    jitter_s: float = 1.0
    failures_max: int = 5


class PartnerClient:
    """Kept-alive connections to the partner, one for each thread that posts; no redirects, every timeout set.

    A redirect would send token and events where nobody configured it. Raises ValueError where URL or token can never
    work.
    """

    def __init__(self, url: str, token: str, timeout_s: float, *, transport: httpx.BaseTransport | None = None) -> None:
        if not token.isascii() or not token.isprintable() or token != token.strip():
            raise ValueError("EXTERNAL_API_TOKEN has characters that no HTTP header can carry: check it for line ends")
        try:
            self._url = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ValueError(f"EXTERNAL_API_URL is no URL: {error}") from None
        self._timeout_s = timeout_s
        self._headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": f"python-httpx/{httpx.__version__}",
        }
        self._timeouts = {"timeout": httpx.Timeout(timeout_s).as_dict()}
        # Not httpx.Client: its cookies, redirects and hooks, none of which we want, take half of a request's CPU.
        self._transport = transport or httpx.HTTPTransport(proxy=_proxy(self._url))

    def post(self, body: bytes, idempotency_key: str) -> Answer:
        """One try. Raises Unavailable where the answer, or its absence, is not about the events."""
        try:
            request = httpx.Request(
                "POST",
                self._url,
                headers={**self._headers, "Idempotency-Key": idempotency_key},
                content=body,
                extensions=self._timeouts,
            )
            with closing(self._transport.handle_request(request)) as response:
                words = self._words(response)
        except httpx.HTTPError as error:
            raise Unavailable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from error
        status = response.status_code
        if response.is_success:
            return Answer(Verdict.ACCEPTED, status, "")  # nobody repeats these words, so nobody need mask them
        words = without_values(words, body)[:WORDS_MAX]
        if verdict := VERDICTS.get(status):
            return Answer(verdict, status, words)
        raise Unavailable(_why(response, words), _retry_after_s(response))

    def close(self) -> None:
        self._transport.close()

    def _words(self, response: httpx.Response) -> str:
        """The beginning of the body in one line. The status is known by now: a body that breaks off changes nothing,
        and one that never ends is left."""
        deadline = time.monotonic() + self._timeout_s
        start = b""
        try:
            for chunk in response.iter_bytes():
                start += chunk
                if len(start) > ANSWER_BYTES_MAX or time.monotonic() > deadline:
                    break
        except httpx.HTTPError as error:
            log.info("partner_answer_cut", status=response.status_code, error=type(error).__name__)
        text = start[: 4 * WORDS_MAX].decode(errors="replace")
        return " ".join("".join(c if c.isprintable() else " " for c in text).split())


class Leaving(Exception):
    """The flow was asked to stop while the partner gave no answer about a request."""


class PatientPartner:
    """Sends until there is an answer about the events. Several threads may, each a Kafka partition's requests.

    stopping          asked before each repetition: after SIGTERM Leaving is raised, and nothing more is sent
    refused_in_a_row  (partition, offset) of the events refused alone since the last acceptance

    The breaker, one for all, is pybreaker's: closed, open after `failures_max` failures in a row, half-open for one
    try, closed by a success. While it is closed requests are under way side by side and only their outcomes pass
    through it, one after another; else one request at a time is tried. When the next try is due is decided here
    (stamina's backoff, Retry-After), not by pybreaker's reset timeout: that one goes by the wall clock, and a clock set
    back would keep the breaker open for as long.
    A refusal is a success to the breaker, since a partner that judges is alive; once twenty events in a row were
    refused it is a failure like any other.
    """

    def __init__(self, client: PartnerClient, patience: Patience, *, stopping: Callable[[], bool]) -> None:
        self._client = client
        self._patience = patience
        self._stopping = stopping
        self._not_before = 0.0  # monotonic seconds: the partner's Retry-After
        self.refused_in_a_row: list[tuple[int, int]] = []
        self.last_error: str | None = None
        self._last_said: str | None = None  # the same words are logged once
        self._judging = threading.Lock()
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=patience.failures_max,
            exclude=[lambda error: isinstance(error, _Refusal) and not self.distrusted],
            listeners=[_Announcer(self)],
            throw_new_error_on_trip=False,
            name=SINK,
        )
        metrics.BREAKER.labels(SINK).set(0)

    @property
    def breaker_open(self) -> bool:
        """True from the failure that opened the breaker until the partner has accepted events again."""
        return bool(self._breaker.current_state != pybreaker.STATE_CLOSED)

    @property
    def distrusted(self) -> bool:
        """So many refusals in a row that the next one, the twentieth, is not believed."""
        return len(self.refused_in_a_row) >= REFUSED_IN_A_ROW_MAX - 1

    def deliver(
        self,
        body: bytes,
        idempotency_key: str,
        hold: Callable[[Answer], str | None],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Answer:
        """Send until the partner has answered about the events. Raises Leaving after a request to stop.

        hold       words why this refusal must not stand yet (the breaker opens, the same request is repeated), or None;
                   called by one thread at a time, it may add to `refused_in_a_row`
        meanwhile  called before what comes late: renews the position, and notices there that it was fenced
        """
        wait = self._patience
        tries = repeated(
            Unavailable,
            self._stopping,
            self._leave,
            wait_initial=wait.wait_s,
            wait_max=wait.wait_s_max,
            wait_jitter=wait.jitter_s,
        )
        for attempt in tries:
            with attempt:
                if self._waited() or attempt.num > 1:
                    meanwhile()
                if not self.breaker_open:
                    outcome = self._outcome(body, idempotency_key)
                    with self._judging:
                        return self._judged(outcome, idempotency_key, hold)
                with self._judging:  # for its turn it may have waited as long as others' requests took
                    if self._stopping():
                        self._leave()
                    meanwhile()
                    return self._judged(self._outcome(body, idempotency_key), idempotency_key, hold)
        raise AssertionError("unreachable")

    def close(self) -> None:
        self._client.close()

    def _outcome(self, body: bytes, idempotency_key: str) -> Answer | Unavailable:
        try:
            return self._client.post(body, idempotency_key)
        except Unavailable as failure:
            return failure

    def _judged(
        self, outcome: Answer | Unavailable, idempotency_key: str, hold: Callable[[Answer], str | None]
    ) -> Answer:
        """The answer, as far as the breaker believes it. Raises Unavailable. One thread at a time."""
        if self._breaker.current_state == pybreaker.STATE_OPEN:
            self._breaker.half_open()
        trusted = not self.distrusted
        try:
            answer: Answer = self._breaker.call(self._told, outcome)
        except _Refusal as refusal:
            if why := hold(refusal.answer):
                if self._breaker.current_state != pybreaker.STATE_OPEN:
                    self.last_error = why
                    self._breaker.open()
                failure = Unavailable(why)
                self._failed(failure, idempotency_key)
                raise failure from None
            if trusted:
                self.last_error = None
            return refusal.answer
        except Unavailable as failure:
            self._failed(failure, idempotency_key)
            raise
        self.last_error = self._last_said = None
        self.refused_in_a_row.clear()
        return answer

    def _told(self, outcome: Answer | Unavailable) -> Answer:
        """The outcome as the breaker takes it: returned or raised."""
        if isinstance(outcome, Unavailable):
            self.last_error = str(outcome)
            raise outcome
        if outcome.verdict is not Verdict.ACCEPTED:
            if self.distrusted:
                count = len(self.refused_in_a_row)
                self.last_error = f"the partner refused {count} events in a row, now {outcome.status}: {outcome.words}"
            raise _Refusal(outcome)
        return outcome

    def _failed(self, failure: Unavailable, idempotency_key: str) -> None:
        self.last_error = str(failure)
        self._not_before = max(self._not_before, time.monotonic() + failure.retry_after_s)
        metrics.SINK_ERRORS.labels(SINK).inc()
        if self.last_error != self._last_said:
            self._last_said = self.last_error
            log.warning(
                "waiting_for_partner",
                error=self.last_error,
                retry_after_s=failure.retry_after_s,
                idempotency_key=idempotency_key,
            )

    def _waited(self) -> bool:
        """Wait as long as the partner asked, on whichever request. False where there was nothing to wait for."""
        waited = False
        while (left := self._not_before - time.monotonic()) > 0:
            if self._stopping():
                self._leave()
            time.sleep(min(left, STOP_SEEN_S))
            waited = True
        return waited

    def _leave(self) -> NoReturn:
        raise Leaving


class _Announcer(pybreaker.CircuitBreakerListener):
    """Says once that the breaker opened, and once that it closed."""

    def __init__(self, partner: PatientPartner) -> None:
        self._partner = partner

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        opened = new_state.name != pybreaker.STATE_CLOSED
        metrics.BREAKER.labels(SINK).set(int(opened))
        if new_state.name == pybreaker.STATE_OPEN and old_state.name == pybreaker.STATE_CLOSED:
            # Distrusted, it opens for good until somebody acts; else it closes by itself, and nothing is lost.
            say = log.error if self._partner.distrusted else log.warning
            say("partner_breaker_opened", why=self._partner.last_error, meaning="waits; nothing is lost")
        elif not opened:
            log.info("partner_breaker_closed")


def _proxy(url: httpx.URL) -> str | None:
    """What HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY say of this URL."""
    proxies = urllib.request.getproxies()
    return None if urllib.request.proxy_bypass(url.host) else proxies.get(url.scheme) or proxies.get("all")


def _why(response: httpx.Response, words: str) -> str:
    """One sentence about an answer that is not about the events."""
    status = response.status_code
    what = f"the partner answered {status} {response.reason_phrase}".rstrip()
    if response.is_redirect:
        target = response.headers.get("location", "nowhere")[:WORDS_MAX]
        return f"{what}: its redirect to {target} is not followed, set EXTERNAL_API_URL"
    remedy = REMEDIES.get(status)
    return what + (f" ({remedy})" if remedy else "") + (f": {words}" if words else "")


def _retry_after_s(response: httpx.Response) -> float:
    """Seconds of the header Retry-After, which has seconds or a date; 0 without one or where it is neither."""
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), RETRY_AFTER_S_MAX)
    try:
        due = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    due = due if due.tzinfo else due.replace(tzinfo=UTC)
    return min(max((due - datetime.now(UTC)).total_seconds(), 0.0), RETRY_AFTER_S_MAX)
