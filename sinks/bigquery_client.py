"""BigQuery's two doors (REST for tables and queries, gRPC for appends), and what their failures mean.

A failure is one of two: Away (the same call may succeed later: waited for, without end, by BigQueryPatience) or
FlowStopped (somebody must act). Emulators are spoken to without credentials.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import google.auth
import google.auth.exceptions
import grpc
import pybreaker
import requests
import structlog
from google.api_core import exceptions as failures
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery
from google.cloud.bigquery_storage_v1 import BigQueryWriteClient
from google.cloud.bigquery_storage_v1.services.big_query_write.transports import BigQueryWriteGrpcTransport

import metrics
from sinks.repetition import repeated
from sources.positions import FlowStopped

log = structlog.get_logger()

T = TypeVar("T")

SINK = "bigquery"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
CALL_SECONDS = 20.0  # one try of one call
REFUSED_IN_A_ROW_MAX = 20  # so many rows refused, none accepted between: it is not about the rows
PROVISION = "python -m operations.provision"
# Reasons behind a 403 that pass by themselves.
BUSY = {"rateLimitExceeded", "quotaExceeded", "jobRateLimitExceeded", "backendError", "userRateLimitExceeded"}


@dataclass(frozen=True, slots=True)
class BigQueryTable:
    """Where the rows go. rest, grpc: host:port of an emulator, None: Google.

    credentials  a key file; None: what google.auth finds by itself
    """

    project: str
    dataset: str
    table: str
    rest: str | None = None
    grpc: str | None = None
    credentials: Path | None = None

    @property
    def path(self) -> str:
        """As the Storage Write API names it."""
        return f"projects/{self.project}/datasets/{self.dataset}/tables/{self.table}"

    @property
    def name(self) -> str:
        """As SQL names it, without the backticks."""
        return f"{self.project}.{self.dataset}.{self.table}"

    def query_client(self) -> Any:
        """google.cloud.bigquery.Client: tables, views, queries."""
        if self.rest is None:
            return bigquery.Client(project=self.project, credentials=self._credentials())
        return bigquery.Client(
            project=self.project,
            credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
            client_options=ClientOptions(api_endpoint=f"http://{self.rest}"),
        )

    def write_client(self) -> Any:
        """BigQueryWriteClient. Made when the flow is built, never at import: gRPC channels do not survive a fork."""
        if self.grpc is None:
            return BigQueryWriteClient()  # type: ignore[no-untyped-call]
        channel = grpc.insecure_channel(self.grpc)
        transport = BigQueryWriteGrpcTransport(channel=channel)
        return BigQueryWriteClient(transport=transport)  # type: ignore[no-untyped-call]

    def _credentials(self) -> Any:
        """As google.auth finds them, in the key file where one is named: the variable is its documented interface."""
        if self.credentials is None:
            return None
        os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = str(self.credentials)
        try:
            return google.auth.default(scopes=[SCOPE])[0]
        except (OSError, google.auth.exceptions.GoogleAuthError) as failure:
            raise FlowStopped(f"GOOGLE_APPLICATION_CREDENTIALS={self.credentials} cannot be used: {failure}") from None


class Away(Exception):
    """BigQuery did not answer, or asked to come back later: the same call again may succeed."""


def translated(failure: Exception, what: str) -> Exception:
    """The failure of a call as Away or FlowStopped; `what` was being done, for the sentence.

    A failure that is no business of BigQuery's comes back as it is."""
    text = str(failure).splitlines()[0][:300] if str(failure) else type(failure).__name__
    if isinstance(failure, failures.NotFound):
        return FlowStopped(f"BigQuery does not have what is needed to {what}: {text}. Create it with: {PROVISION}")
    if isinstance(failure, failures.Forbidden | failures.Unauthorized):
        if any(error.get("reason") in BUSY for error in failure.errors or () if isinstance(error, dict)):
            return Away(text)
        return FlowStopped(f"BigQuery does not allow this process to {what}: {text}. Grant it, then start again.")
    if isinstance(failure, google.auth.exceptions.DefaultCredentialsError):
        return FlowStopped(f"No credentials to {what} in BigQuery: {text} (GOOGLE_APPLICATION_CREDENTIALS)")
    if isinstance(failure, google.auth.exceptions.RefreshError) and not failure.retryable:
        return FlowStopped(f"Google refused the credentials, needed to {what} in BigQuery: {text}")
    passing = (
        failures.ServerError,
        failures.TooManyRequests,
        failures.Aborted,
        failures.Cancelled,
        failures.RetryError,
        google.auth.exceptions.GoogleAuthError,
        requests.exceptions.RequestException,
        grpc.RpcError,
        OSError,  # timeouts and refused connections, where no library has wrapped them
    )
    if isinstance(failure, passing) or "concurrent update" in text:
        return Away(text)
    if isinstance(failure, failures.GoogleAPICallError):
        return FlowStopped(f"BigQuery refused to {what}: {text}. See its message, then start again.")
    return failure


class _BreakerGauge(pybreaker.CircuitBreakerListener):
    """Shows the breaker's state where operators look."""

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        metrics.BREAKER.labels(SINK).set(0 if new_state.name == pybreaker.STATE_CLOSED else 1)


class BigQueryPatience:
    """Calls BigQuery until it answers: backoff with jitter, behind a breaker, in words, and never past a stop request.

    stopping, abandon  asked before each repetition: after SIGTERM `abandon()` ends the process, nothing committed
    meanwhile          called before each repetition: proves that the partitions are still ours
    wait_seconds_max   bounds how long a stop request goes unseen
    """

    def __init__(
        self,
        stopping: Callable[[], bool],
        abandon: Callable[[], object],
        meanwhile: Callable[[], None] = lambda: None,
        wait_seconds_max: float = 5.0,
    ) -> None:
        self.stopping = stopping
        self._abandon, self._meanwhile = abandon, meanwhile
        self._wait_max = wait_seconds_max
        self.last_error: str | None = None
        self.refused_in_a_row = 0
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=5,
            reset_timeout=wait_seconds_max,
            exclude=[lambda failure: not isinstance(failure, Away)],
            listeners=[_BreakerGauge()],
            throw_new_error_on_trip=False,
        )
        metrics.BREAKER.labels(SINK).set(0)

    @property
    def breaker_open(self) -> bool:
        return str(self._breaker.current_state) != pybreaker.STATE_CLOSED

    def distrust(self, why: str) -> None:
        """Open the breaker: what BigQuery answers cannot be about the rows."""
        self.last_error = why
        log.error("bigquery_distrusted", why=why)
        self._breaker.open()

    def call(self, what: str, function: Callable[..., T], *arguments: Any) -> T:
        """function(*arguments), again and again while it raises Away. `what` follows "to" in sentences."""
        for attempt in repeated(
            (Away, pybreaker.CircuitBreakerError),
            self.stopping,
            self._abandon,
            wait_initial=min(0.5, self._wait_max),
            wait_max=self._wait_max,
            wait_jitter=min(1.0, self._wait_max),
        ):
            with attempt:
                if attempt.num > 1:
                    self._meanwhile()
                answer = self._breaker.call(self._try, what, function, arguments)
        self.last_error = None
        return answer  # type: ignore[no-any-return]

    def _try(self, what: str, function: Callable[..., T], arguments: Sequence[Any]) -> T:
        try:
            return function(*arguments)
        except Exception as failure:
            meant = translated(failure, what)
            if isinstance(meant, Away):
                self.last_error = f"BigQuery is waited for, to {what}: {meant}"
                metrics.SINK_ERRORS.labels(SINK).inc()
                log.warning("waiting_for_bigquery", to=what, error=str(meant))
            if meant is failure:
                raise
            raise meant from failure
