"""Every request leaves one line, under the id that its answer carries: at DEBUG where nobody would look for it."""

from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient
from prometheus_client import REGISTRY

from api import request_log
from api.request_log import RequestLog


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    app.add_middleware(RequestLog)

    @app.get("/content/{content_id:path}/stats")
    def stats(content_id: str) -> str:
        structlog.get_logger().info("inside")
        if content_id == "away":
            raise HTTPException(503)
        if content_id == "broken":
            raise ValueError("a defect")
        return content_id

    @app.delete("/session")
    def sign_out() -> str:
        return "gone"

    @app.get("/health")
    def health() -> str:
        return "ok"

    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    captured = structlog.testing.LogCapture()
    before = structlog.get_config()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, captured])
    yield captured.entries
    structlog.configure(**before)


def test_a_request_is_logged_by_its_route_and_answered_with_its_id(client: TestClient, lines: list[Any]) -> None:
    answer = client.get("/content/user_alice/stats?token=secret", headers={"X-Request-ID": "page-7"})
    assert answer.headers["x-request-id"] == "page-7"
    inside, request = lines
    assert inside["request_id"] == request["request_id"] == "page-7"
    assert (request["event"], request["log_level"], request["method"]) == ("request", "info", "GET")
    assert (request["route"], request["status"]) == ("/content/{content_id:path}/stats", 200)
    assert 0 <= request["duration_ms"] < 10_000
    assert "alice" not in str(lines)
    assert "secret" not in str(lines)


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 65, "a\tb", '"'])
def test_an_id_that_is_missing_or_unfit_is_made_anew(client: TestClient, lines: list[Any], given: str | None) -> None:
    answer = client.get("/content/a/stats", headers={} if given is None else {"X-Request-ID": given})
    made = answer.headers["x-request-id"]
    assert len(made) == 32
    assert lines[-1]["request_id"] == made
    assert client.get("/content/a/stats").headers["x-request-id"] != made


@pytest.mark.parametrize(
    ("path", "route", "status", "level"),
    [
        ("/content/away/stats", "/content/{content_id:path}/stats", 503, "warning"),
        ("/content/broken/stats", "/content/{content_id:path}/stats", 500, "warning"),
        ("/wp-admin/user_alice", "unmatched", 404, "info"),
        ("/content/a/stats", "/content/{content_id:path}/stats", 200, "debug"),
        ("/health", "/health", 200, "debug"),
    ],
)
def test_levels_and_routes(
    client: TestClient, lines: list[Any], path: str, route: str, status: int, level: str
) -> None:
    assert client.get(path).status_code == status
    assert (lines[-1]["route"], lines[-1]["status"], lines[-1]["log_level"]) == (route, status, level)
    labels = {"route": route, "status": str(status)}
    assert REGISTRY.get_sample_value("api_request_seconds_count", labels) >= 1


def test_what_is_slow_or_changes_something_is_told(
    client: TestClient, lines: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.post("/content/a/stats").status_code == 405
    assert lines[-1]["log_level"] == "info"
    assert client.delete("/session").status_code == 200
    assert (lines[-1]["status"], lines[-1]["log_level"]) == (200, "info")
    monkeypatch.setattr(request_log, "SLOW_S", 0.0)
    client.get("/content/a/stats")
    assert (lines[-1]["status"], lines[-1]["log_level"]) == (200, "info")


def test_an_id_lasts_as_long_as_its_request(client: TestClient, lines: list[Any]) -> None:
    client.get("/content/a/stats")
    structlog.get_logger().info("later")
    assert "request_id" not in lines[-1]
