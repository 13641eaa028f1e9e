"""A partner for the demo and the tests: takes events over HTTP, honours Idempotency-Key, can be told to fail.

    python -m demo.partner_receiver --port 8090 --store partner.sqlite3

POST /events          the partner's API: a JSON array of events or one event; bearer token
GET, PUT /behaviour   how it fails (see Behaviour); PUT {} makes it healthy
GET /events           what it holds: a line of JSON per effect, as `operations.audit --partner-ids` reads it
GET /stats            how much it holds

A key that was seen with the same body has no second effect. With another body it has none either and is answered 409:
the first one stands.
"""

import asyncio
import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, body_sha256 TEXT NOT NULL, events INTEGER NOT NULL,
    status INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS keys (key TEXT PRIMARY KEY, body_sha256 TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS effects (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL
);
CREATE VIEW IF NOT EXISTS events AS
    SELECT event_id, count(*) AS effects, min(body) AS body FROM effects GROUP BY event_id;
"""


class Behaviour(BaseModel):
    """How the receiver answers.

    status       answer every request with it, `times` times (None: until told otherwise); None: healthy
    applied      take the events all the same, before the answer fails: the caller cannot know
    retry_after  header Retry-After of those answers; location: header Location
    delay_s      seconds before each answer (with `times`, as many): beyond the caller's timeout it is an outage
    refusals     event_id -> status of a request that has this event
    events_max   413 for requests with more events
    known_status answer to a key that is already known
    """

    status: int | None = None
    times: int | None = None
    applied: bool = False
    retry_after: str | None = None
    location: str | None = None
    delay_s: float = 0
    refusals: dict[str, int] = {}
    events_max: int | None = None
    known_status: int = 200


class _Identified(msgspec.Struct):
    event_id: str


class Store:
    """Events by event_id in SQLite, one row in `effects` per effect; `requests` has every request and its answer."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA busy_timeout=5000;" + SCHEMA)

    def known(self, key: str) -> str | None:
        """SHA-256 of the body that came with this key, None if it is new."""
        row = self._db.execute("SELECT body_sha256 FROM keys WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else None

    def take(self, key: str, digest: str, events: list[tuple[str, str]]) -> None:
        """The effect of a request: all of it or nothing. events: (event_id, body)."""
        with self._db:
            self._db.execute("BEGIN")
            self._db.execute("INSERT INTO keys VALUES (?, ?)", (key, digest))
            self._db.executemany(
                "INSERT INTO effects (event_id, key, body) VALUES (?, ?, ?)",
                [(event_id, key, body) for event_id, body in events],
            )

    def log(self, key: str, digest: str, events: int, status: int) -> None:
        self._db.execute(
            "INSERT INTO requests (key, body_sha256, events, status) VALUES (?, ?, ?, ?)", (key, digest, events, status)
        )

    def stats(self) -> dict[str, int]:
        """events, effects (more than events: some were delivered twice, or two records share an id), requests,
        conflicts (a key that came with another body)."""

        def number(sql: str) -> int:
            return int(self._db.execute(sql).fetchone()[0])

        return {
            "events": number("SELECT count(DISTINCT event_id) FROM effects"),
            "effects": number("SELECT count(*) FROM effects"),
            "requests": number("SELECT count(*) FROM requests"),
            "conflicts": number(
                "SELECT count(*) FROM requests JOIN keys USING (key) WHERE keys.body_sha256 <> requests.body_sha256"
            ),
        }

    def close(self) -> None:
        self._db.close()


def effects(path: Path) -> Iterator[bytes]:
    """The body of each effect in a store, a line each, in the order of arrival: an event taken twice stands twice."""
    read_only = f"{path.resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(read_only, uri=True, timeout=10, check_same_thread=False)) as database:
        for (body,) in database.execute("SELECT body FROM effects ORDER BY seq"):
            yield body.encode() + b"\n"


def application(store: Store, token: str | None = None) -> FastAPI:
    """The receiver over `store`; without `token` any bearer token is taken."""
    app = FastAPI(title="Partner receiver", openapi_url=None)
    app.state.behaviour = Behaviour()

    @app.post("/events")
    async def take(request: Request) -> Response:
        authorization = request.headers.get("authorization", "")
        key = request.headers.get("idempotency-key", "")
        body = await request.body()
        digest = hashlib.sha256(body).hexdigest()
        behaviour: Behaviour = app.state.behaviour
        failure = _failure(behaviour)
        if not authorization.startswith("Bearer ") or (token is not None and authorization != f"Bearer {token}"):
            return _answer(401, "the bearer token is wrong")
        if not key:
            return _answer(428, "Idempotency-Key is missing")
        try:
            events = _events(body)
        except msgspec.MsgspecError as error:
            return _answer(400, str(error))
        status, words = failure or 0, "told to fail"
        if failure is None or behaviour.applied:
            judged = _judge(store, behaviour, key, digest, events)
            status, words = judged if failure is None else (failure, words)
        store.log(key, digest, len(events), status)
        if behaviour.delay_s:
            await asyncio.sleep(behaviour.delay_s)
        return _answer(status, words, behaviour)

    @app.get("/events")
    def held() -> StreamingResponse:
        return StreamingResponse(effects(store.path), media_type="application/x-ndjson")

    @app.get("/behaviour")
    def shown() -> Behaviour:
        behaviour: Behaviour = app.state.behaviour
        return behaviour

    @app.put("/behaviour")
    def change(behaviour: Behaviour) -> Behaviour:
        app.state.behaviour = behaviour
        return behaviour

    @app.get("/stats")
    async def stats() -> dict[str, int]:
        return store.stats()

    return app


def _events(body: bytes) -> list[tuple[str, str]]:
    """(event_id, body) of each event of the request."""
    array = body.lstrip()[:1] == b"["
    raw = msgspec.json.decode(body, type=list[msgspec.Raw]) if array else [msgspec.Raw(body)]
    return [(msgspec.json.decode(each, type=_Identified).event_id, bytes(each).decode()) for each in raw]


def _failure(behaviour: Behaviour) -> int | None:
    """The status of this answer if the receiver is told to fail; counts `times` down and then is healthy."""
    if behaviour.times is not None:
        if behaviour.times <= 0:
            behaviour.status, behaviour.delay_s = None, 0
            return None
        behaviour.times -= 1
    return behaviour.status


def _judge(store: Store, behaviour: Behaviour, key: str, digest: str, events: list[tuple[str, str]]) -> tuple[int, str]:
    """Take the events if they are new and right: (status, words)."""
    if (known := store.known(key)) is not None:
        return (behaviour.known_status, "known") if known == digest else (409, "known, with another body")
    if behaviour.events_max is not None and len(events) > behaviour.events_max:
        return 413, f"at most {behaviour.events_max} events"
    for event_id, _ in events:
        if event_id in behaviour.refusals:
            return behaviour.refusals[event_id], f"event {event_id} is refused"
    store.take(key, digest, events)
    return 200, "taken"


def _answer(status: int, words: str, behaviour: Behaviour | None = None) -> Response:
    headers = {}
    if behaviour and behaviour.status is not None and behaviour.retry_after:
        headers["Retry-After"] = behaviour.retry_after
    if behaviour and behaviour.status is not None and behaviour.location:
        headers["Location"] = behaviour.location
    return Response(
        msgspec.json.encode({"answer": words}), status_code=status, headers=headers, media_type="application/json"
    )


def serve(app: FastAPI, port: int, host: str = "127.0.0.1") -> uvicorn.Server:
    """A server for `app`, not yet running: `.run()` blocks; `.should_exit = True` ends it."""
    config: dict[str, Any] = {"log_level": "warning", "access_log": False, "timeout_graceful_shutdown": 2}
    return uvicorn.Server(uvicorn.Config(app, host=host, port=port, **config))


def main(
    port: Annotated[int, typer.Option(help="port to listen on")] = 8090,
    store: Annotated[Path, typer.Option(help="SQLite file")] = Path("partner.sqlite3"),
    token: Annotated[str | None, typer.Option(help="the only bearer token that is taken; default: any")] = None,
) -> None:
    """Run the receiver until SIGTERM."""
    serve(application(Store(store), token), port).run()


if __name__ == "__main__":
    typer.run(main)
