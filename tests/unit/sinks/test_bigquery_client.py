"""What a failed call means: come back later, or somebody must act."""

from pathlib import Path

import google.auth.exceptions as auth
import pytest
import requests
from google.api_core import exceptions as failures

from sinks.bigquery_client import Away, BigQueryPatience, BigQueryTable, translated
from sources.positions import FlowStopped


@pytest.mark.parametrize(
    "failure",
    [
        failures.ServiceUnavailable("x"),
        failures.InternalServerError("x"),
        failures.GatewayTimeout("x"),
        failures.DeadlineExceeded("x"),
        failures.TooManyRequests("x"),
        failures.ResourceExhausted("x"),
        failures.Aborted("x"),
        failures.Unknown("x"),
        failures.Forbidden("busy", errors=[{"reason": "rateLimitExceeded"}]),
        failures.BadRequest("Could not serialize access to table t due to concurrent update"),
        auth.TransportError("x"),
        auth.RefreshError("x", retryable=True),
        requests.exceptions.ConnectionError("x"),
        requests.exceptions.ReadTimeout("x"),
        ConnectionRefusedError("x"),
        TimeoutError("x"),
    ],
)
def test_what_passes_by_itself_is_waited_for(failure: Exception) -> None:
    assert isinstance(translated(failure, "ask"), Away)


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (failures.NotFound("Dataset d"), "python -m operations.provision"),
        (failures.Forbidden("no", errors=[{"reason": "accessDenied"}]), "does not allow this process to ask"),
        (failures.PermissionDenied("no"), "does not allow this process to ask"),
        (failures.BadRequest("Unrecognized name: x"), "refused to ask: 400 Unrecognized name"),
        (auth.DefaultCredentialsError("none"), "GOOGLE_APPLICATION_CREDENTIALS"),
        (auth.RefreshError("revoked"), "refused the credentials"),
    ],
)
def test_what_somebody_must_change_stops_the_flow_with_a_sentence(failure: Exception, sentence: str) -> None:
    meant = translated(failure, "ask")
    assert isinstance(meant, FlowStopped)
    assert sentence in str(meant)


def test_other_failures_are_left_alone() -> None:
    failure = KeyError("a bug")
    assert translated(failure, "ask") is failure


def test_patience_goes_on_until_it_is_answered_and_says_why_meanwhile() -> None:
    seen: list[str | None] = []
    patience = BigQueryPatience(lambda: False, lambda: None, lambda: seen.append(patience.last_error), 0.01)
    answers = iter([failures.ServiceUnavailable("down")] * 7)

    def ask() -> str:
        for failure in answers:
            raise failure
        return "fine"

    assert patience.call("ask", ask) == "fine"
    assert seen
    assert set(seen) == {"BigQuery is waited for, to ask: 503 down"}
    assert patience.last_error is None
    assert not patience.breaker_open


def test_names_of_a_table() -> None:
    table = BigQueryTable("p", "d", "t")
    assert table.path == "projects/p/datasets/d/tables/t"
    assert table.name == "p.d.t"


def test_a_key_file_that_cannot_be_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "")  # and put back as it was
    table = BigQueryTable("p", "d", "t", credentials=tmp_path / "key.json")
    with pytest.raises(FlowStopped, match=r"GOOGLE_APPLICATION_CREDENTIALS=.*key\.json cannot be used"):
        table.query_client()
