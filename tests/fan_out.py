"""The pipeline with all its destinations: partner, BigQuery and dead letters beside Redis, and what each must hold.

What must be there is worked out here from the records of the topic; none of the pipeline's own steps is used.
"""

import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

from tests.pipeline import ROOT, Flow, Pipeline, events, free_port

SINKS = ("redis", "dead_letters", "partner", "bigquery")
TOKEN = "the-partner-knows-it"
BROKEN = (b"hello", b'{"content_id": null, "event_type": "like"}', b"[1, 2]", b"\xff\xfe")


@dataclass(frozen=True)
class Place:
    """Where an accepted event lies in the topic, and when it came there, seconds since 1970."""

    partition: int
    offset: int
    at: float


class Partner:
    """`python -m demo.partner_receiver` in a process of its own; its SQLite store is read directly."""

    def __init__(self, work: Path) -> None:
        self.store = work / "partner.sqlite3"
        self._log = work / "partner.log"
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "demo.partner_receiver", "--port", str(self._port)]
        command += ["--store", str(self.store), "--token", TOKEN]
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 30
        while not self._answers():
            assert time.monotonic() < deadline, self._log.read_text(encoding="utf-8")
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(15)
            self._process = None

    def behave(self, **how: Any) -> None:
        """See demo.partner_receiver.Behaviour; without arguments: healthy."""
        httpx.put(f"{self.url}/behaviour", json=how, timeout=10).raise_for_status()

    def ask(self, sql: str) -> list[Any]:
        with sqlite3.connect(f"file:{self.store}?mode=ro", uri=True, timeout=10) as database:
            return database.execute(sql).fetchall()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/stats", timeout=1).is_success
        except httpx.HTTPError:
            return False


class FanOut(Pipeline):
    """A provisioned pipeline with a partner of its own and a dataset of its own.

    bigquery  an emulator: .rest .grpc .project
    """

    def connect(self, partner: Partner, bigquery: Any, **env: str) -> None:
        """Say where partner and BigQuery are, and provision."""
        self.partner, self.bigquery = partner, bigquery
        self.env = {
            "BIGQUERY_PROJECT_ID": bigquery.project,
            "BIGQUERY_DATASET_ID": self.group,
            "BIGQUERY_EMULATOR_HOST": bigquery.rest,
            "BIGQUERY_EMULATOR_GRPC_HOST": bigquery.grpc,
            "EXTERNAL_API_URL": f"{partner.url}/events",
            "EXTERNAL_API_TOKEN": TOKEN,
            "EXTERNAL_API_BATCH_SIZE": "100",
            "EXTERNAL_API_TIMEOUT_SECONDS": "2",
            "SINKS": ",".join(SINKS),
            **env,
        }
        self.provision()

    def start_sink(self, sink: str, **more: str) -> Flow:
        """The deployment of one sink, as in production: a process and a recovery directory of its own."""
        return self.start(sink, SINKS=sink, **more)

    @contextmanager
    def load(self, per_second: int, broken: int = 2, seed: int = 7) -> Iterator[None]:
        """Produce in the background, event times around now, `broken` records a second among them."""
        stop = threading.Event()

        def run() -> None:
            number, started = 0, time.monotonic()
            while not stop.wait(max(0.0, started + number / 5 - time.monotonic())):
                number += 1
                good = events(self.contents, per_second // 5, seed=seed * 1000 + number, spread_s=900)
                for event in good[::50]:
                    del event["id"]  # its id is then where it lies
                bad = [BROKEN[(number + each) % len(BROKEN)] for each in range(broken)] if number % 5 == 0 else []
                self.produce([*bad, *good])

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def all_caught_up(
        self, timeout: float = 60, sinks: Sequence[str] = SINKS, ends: dict[int, int] | None = None
    ) -> None:
        """Wait until each sink stands at the end of every partition, or at `ends`."""
        ends = ends or self.ends()
        deadline = time.monotonic() + timeout
        for sink in sinks:
            while (at := self.sink_positions(sink)) != ends:
                assert time.monotonic() < deadline, f"{sink} at {at}, Kafka at {ends}\n{self.words()}"
                time.sleep(0.2)

    def accepted(self) -> dict[str, Place]:
        """event_id -> where it lies, of every record of the topic that is an event. Two never share an id here."""
        found: dict[str, Place] = {}
        for message in self.records():
            if message.value() in BROKEN:
                continue
            place = Place(message.partition(), message.offset(), message.timestamp()[1] / 1000)
            event_id = json.loads(message.value()).get("id")
            found[str(event_id or f"kafka:{self.topic}-{place.partition}-{place.offset}")] = place
        return found

    @cached_property
    def bigquery_client(self) -> Any:
        return bigquery.Client(
            project=self.bigquery.project,
            credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
            client_options=ClientOptions(api_endpoint=f"http://{self.bigquery.rest}"),
        )

    def bigquery_rows(self, columns: str, behind: str = "") -> list[tuple[Any, ...]]:
        """SELECT columns FROM the table; `behind`: GROUP BY ..."""
        table = f"`{self.bigquery.project}.{self.group}.enriched_events`"
        query = f"SELECT {columns} FROM {table} WHERE event_ts >= TIMESTAMP '1970-01-01' {behind}"
        return [tuple(row.values()) for row in self.bigquery_client.query_and_wait(query)]

    def assert_everything_once(self) -> dict[str, Place]:
        """Redis, partner, BigQuery and dead letters hold what the topic holds, once. Returns the accepted events."""
        accepted = self.accepted()
        self.assert_partner_once(accepted)
        self.assert_bigquery_once(accepted)
        self.assert_letters_once()
        self.assert_equal(rejected=set(BROKEN).__contains__)
        return accepted

    def assert_partner_once(self, accepted: dict[str, Place]) -> None:
        """Each event had one effect; no key ever came with two bodies; what was sent is repeated until it is taken."""
        effects = Counter(dict(self.partner.ask("SELECT event_id, count(*) FROM effects GROUP BY event_id")))
        _same("partner", effects, accepted)
        bodies = "SELECT key FROM requests GROUP BY key HAVING count(DISTINCT body_sha256) > 1"
        assert self.partner.ask(bodies) == [], "a key came with two bodies"
        forgotten = "SELECT key, events FROM requests WHERE key NOT IN (SELECT key FROM keys)"
        assert self.partner.ask(forgotten) == [], "a request in flight was cut anew instead of repeated"

    def assert_partner_in_order(self, accepted: dict[str, Place]) -> None:
        """The partner took the events of each Kafka partition in offset order."""
        last: dict[int, int] = {}
        for (event_id,) in self.partner.ask("SELECT event_id FROM effects ORDER BY seq"):
            place = accepted[event_id]
            assert place.offset > last.get(place.partition, -1), f"{event_id} at {place} behind {last}"
            last[place.partition] = place.offset

    def assert_bigquery_once(self, accepted: dict[str, Place]) -> None:
        """One row per event, which says from where it came."""
        rows = self.bigquery_rows("event_id, kafka_partition, kafka_offset")
        _same("BigQuery", Counter(row[0] for row in rows), accepted)
        places = {event_id: (place.partition, place.offset) for event_id, place in accepted.items()}
        assert {row[0]: row[1:] for row in rows} == places

    def assert_letters_once(self) -> None:
        """Each broken record has one dead letter, and nothing else has."""
        broken = Counter((m.partition(), m.offset()) for m in self.records() if m.value() in BROKEN)
        letters: Counter[tuple[int, int]] = Counter()
        for message in self.records(self.letters):
            headers = dict(message.headers())
            assert headers["sink"] == b"parse", headers
            letters[int(headers["partition"]), int(headers["offset"])] += 1
        assert letters == broken

    def claims(self, flow: Flow) -> dict[int, int]:
        """Where a flow began to read each partition."""
        said = [json.loads(line) for line in flow.said().splitlines() if "partition_claimed" in line]
        return {line["partition"]: line["start"] for line in said}


def _same(where: str, held: Counter[str], accepted: dict[str, Place]) -> None:
    """Each accepted event once and nothing else; says which differ, not all of them."""
    twice = {event_id: count for event_id, count in held.items() if count > 1}
    missing, strange = accepted.keys() - held.keys(), held.keys() - accepted.keys()

    def some(event_ids: set[str]) -> list[Any]:
        return [(event_id, accepted.get(event_id)) for event_id in sorted(event_ids)[:5]]

    told = f"twice {len(twice)}: {some(set(twice))}; missing {len(missing)}: {some(missing)}; strange: {some(strange)}"
    assert not any((twice, missing, strange)), f"{where}: {told}"


def progressed(pipeline: FanOut, sink: str, timeout: float = 60) -> None:
    """Wait until the sink's position has moved on since now: its process, the last one started for it, is at work."""
    flow = [each for each in pipeline.flows if each.log.name.startswith((sink, "flow"))][-1]
    before = pipeline.sink_positions(sink)
    deadline = time.monotonic() + timeout
    while pipeline.sink_positions(sink) == before:
        assert flow.process.poll() is None, flow.said()[-5000:]
        assert time.monotonic() < deadline, f"{sink} stays at {before} of {pipeline.ends()}\n{flow.said()[-5000:]}"
        time.sleep(0.05)
