"""What the processes log and measure while events are rejected and refused: lines to follow, and no user in them."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import psycopg
import pytest

from tests.fakes.capture import Capture
from tests.pipeline import ROOT, Pipeline, free_port

USER = "user_of_interest"
REFUSED = 422
OF_THE_DESIGN = {
    *("processed_events_total", "late_events_total", "rejected_events_total", "skipped_events_total"),
    *("processing_latency_seconds", "sink_errors_total", "kafka_lag_seconds"),
}
CONTENT = "123e4567-e89b-12d3-a456-426614174000"


class EchoingPartner(BaseHTTPRequestHandler):
    """Says in each answer what it was sent: first that it is busy, then that clicks are not its matter."""

    busy = 3

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = REFUSED if b'"click"' in body else 200
        if EchoingPartner.busy:
            EchoingPartner.busy -= 1
            status = 503
        self.send_response(status)
        answer = b"this went wrong: " + body
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def partner_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), EchoingPartner)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/events"
    server.shutdown()
    thread.join()
    server.server_close()


def insert(dsn: str) -> None:
    """Good rows, one that is refused and one that is rejected, all by the same user."""
    now = datetime.now(UTC).isoformat()
    rows = [("play", USER), ("click", USER), ("pause", USER), ("finish", USER * 9)]
    with psycopg.connect(dsn) as connection:
        for event_type, user in rows:
            connection.execute(
                "INSERT INTO engagement_events (content_id, user_id, event_type, event_ts, duration_ms, device, "
                "raw_payload) VALUES (%s, %s, %s, %s, 900000, 'web', %s)",
                [CONTENT, user, event_type, now, json.dumps({"who": user})],
            )


def metrics_of(port: int, path: str = "/metrics") -> str:
    return httpx.get(f"http://127.0.0.1:{port}{path}").raise_for_status().text


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_line_can_be_followed_and_none_names_a_user(
    pipeline: Pipeline, partner_url: str, wait_for: Callable[..., Any]
) -> None:
    with psycopg.connect(pipeline.postgres, autocommit=True) as connection:
        connection.execute("ALTER TABLE engagement_events ALTER user_id TYPE text")
    pipeline.env = {
        "SINKS": "redis,dead_letters,partner",
        "EXTERNAL_API_URL": partner_url,
        "EXTERNAL_API_TOKEN": "t",
        "CDC_SLOT": pipeline.group,
        "LOG_LEVEL": "DEBUG",
    }
    pipeline.provision()
    insert(pipeline.postgres)
    port, capture_port, flow_port = free_port(), free_port(), free_port()
    capture = Capture(pipeline.environment(HEALTH_PORT=str(capture_port)))
    api_log = pipeline.work / "api.log"
    with api_log.open("wb") as output:
        api = subprocess.Popen(
            [sys.executable, "-m", "api"],
            cwd=ROOT,
            env=pipeline.environment(API_PORT=str(port)),
            stdout=output,
            stderr=output,
        )
    try:
        capture.start()
        flow = pipeline.start(HEALTH_PORT=str(flow_port))
        for sink in ("redis", "partner", "dead_letters"):

            def settled(sink: str = sink) -> bool:
                return sum(pipeline.sink_positions(sink).values()) >= 4

            wait_for(
                settled, timeout=60, message=f"{sink} to have all four\n{flow.said()[-2000:]}\n{capture.log[-2000:]}"
            )

        def answer() -> httpx.Response | None:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/content/{CONTENT}/events", headers={"X-Request-ID": "r-1"})
            except httpx.TransportError:
                return None

        assert wait_for(answer, timeout=30, message="the API").status_code == 200
        assert f'captured_rows_total{{topic="{pipeline.topic}"}} 4.0' in metrics_of(capture_port)
        of_flow = metrics_of(flow_port)
        assert 'dead_letters_total{reason="refused",sink="partner"} 1.0' in of_flow
        assert 'sink_errors_total{sink="partner"} 3.0' in of_flow
        of_all = httpx.get(f"http://127.0.0.1:{port}/metrics").json()
        assert (of_all["processed_events_total"], of_all["rejected_events_total"]) == (3, 1)
        assert of_all["sink_errors_total"]["partner"] == 3
        assert of_all.keys() >= OF_THE_DESIGN
        of_api = metrics_of(port, "/metrics/prometheus")
        assert 'api_request_seconds_count{route="/metrics",status="200"} 1.0' in of_api
        assert capture.stop() == 0
        assert flow.stop() == 0
    finally:
        capture.running.kill()
        api.terminate()
        api.wait(10)
    written = {"capture": capture.log, "flow": flow.said(), "api": api_log.read_text()}
    capture.close()
    for name, text in written.items():
        assert USER not in text, (name, [line for line in text.splitlines() if USER in line][:2])
    said = {name: lines(text) for name, text in written.items()}
    assert {line["process"] for line in said["capture"]} == {"capture"}
    assert any(line["event"] == "streaming" and line["lsn"] for line in said["capture"])
    by_event = {line["event"]: line for line in said["flow"]}
    letters = {dict(letter.headers())["sink"]: letter for letter in pipeline.records(pipeline.letters)}
    assert letters.keys() == {b"parse", b"partner"}
    for event, sink in (("rejected", b"parse"), ("partner_refused", b"partner")):
        headers = dict(letters[sink].headers())
        place = (str(by_event[event]["partition"]).encode(), str(by_event[event]["offset"]).encode())
        assert place == (headers["partition"], headers["offset"])
        assert by_event[event]["reason"].encode() == headers["reason"]
    refused = by_event["partner_refused"]
    assert refused["event_id"] == str(json.loads(letters[b"partner"].value())["id"])
    assert len(refused["idempotency_key"]) == 64
    assert refused["status"] == REFUSED
    assert "this went wrong" in refused["detail"]
    assert len(by_event["waiting_for_partner"]["idempotency_key"]) == 64
    request = next(line for line in said["api"] if line["event"] == "request")
    assert (request["request_id"], request["status"]) == ("r-1", 200)
