"""The page's server, scripted: the real stream and the real files, fed with scenes instead of Redis and Kafka.

It can fall silent, answer 502 to everything, refuse a browser without a token, and end as if killed.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from api.headers import StrictHeaders
from api.hub import Hub
from api.page_files import mount_page_files, page_routes
from api.stages import instant
from api.stream import BOARD_PAGE
from tests.fakes.page_scenes import AT, IDS, SCENES, Events, Key, Scene, content
from tests.pipeline import free_port

TICK_S = 1.0


@dataclass
class Script:
    """What the server says, and how it misbehaves. Everything may be called from the test's thread.

    at      seconds since 1970 by the server's clock when the script began
    status  what every path answers instead, as a proxy does when the server behind it is gone; None: nothing does
    token   what a browser must have brought to POST /session; None: nothing is asked for
    ticking whether a tick comes every second
    frozen  the clock all but stands: for pictures that can be compared. A tick differs, or it would not be sent
    """

    scene: Scene = field(default_factory=lambda: SCENES["live"])
    at: float = AT
    status: int | None = None
    token: str | None = None
    ticking: bool = True
    frozen: bool = False

    def __post_init__(self) -> None:
        self._began = time.monotonic()

    def now(self) -> float:
        passed = time.monotonic() - self._began
        return self.at + (passed / 1000 if self.frozen else passed)


class PageServer:
    """One server for many tests: `begin` gives each a new script, a new life of the stream, and no client."""

    def __init__(self) -> None:
        self.port = free_port()
        self.script = Script()
        self._life: _Life | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def begin(self, scene: str = "live", **how: Any) -> Script:
        self.script = Script(SCENES[scene], **how)
        self.start()
        return self.script

    def start(self) -> None:
        """A new process, as it were: no id of the former life is known to it."""
        self.stop()
        self._life = _Life(self)

    def stop(self) -> None:
        """Every connection ends at once."""
        if self._life is not None:
            self._life.end()
            self._life = None

    def play(self, scene: str | Scene) -> None:
        """From now on this scene."""
        self.script.scene = SCENES[scene] if isinstance(scene, str) else scene
        self.say(self.script.scene.events(self.script.now()))

    def say(self, events: Mapping[Key, Any]) -> None:
        """These events, at once."""
        assert self._life is not None
        self._life.say(events)

    @property
    def clients(self) -> int:
        """Streams that are open."""
        return self._life.hub.clients if self._life else 0


class _Life:
    """From a start of the server to its end."""

    def __init__(self, server: PageServer) -> None:
        self._server = server
        self.hub = Hub(f"life{time.monotonic_ns()}", "build-1")
        self._started = threading.Event()
        config = uvicorn.Config(
            _app(server, self.hub), host="127.0.0.1", port=server.port, log_config=None, timeout_graceful_shutdown=0
        )
        self._uvicorn = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="page-server")
        self._thread.start()
        assert self._started.wait(10)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        script = self._server.script
        self.hub.publish({**script.scene.events(script.now()), **_contents(script.now())})
        ticking = asyncio.create_task(self._tick())
        serving = asyncio.create_task(self._uvicorn.serve())
        while not self._uvicorn.started:
            await asyncio.sleep(0.005)
        self._started.set()
        await serving
        ticking.cancel()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            script = self._server.script
            if script.ticking:
                self.hub.publish({("tick", ""): script.scene.tick(script.now()), **_contents(script.now())})

    def say(self, events: Mapping[Key, Any]) -> None:
        self._loop.call_soon_threadsafe(self.hub.publish, dict(events))

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self.hub.close)
        self._uvicorn.should_exit = self._uvicorn.force_exit = True
        self._thread.join(10)


def _contents(now: float) -> Events:
    return {("content", IDS[3]): content(now)}


def _app(server: PageServer, hub: Hub) -> FastAPI:
    app = FastAPI(openapi_url=None)

    @app.middleware("http")
    async def misbehave(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        script = server.script
        if script.status is not None:
            return Response("Bad gateway", script.status)
        if request.url.path == "/stream" and script.token and request.cookies.get("session") != script.token:
            return Response("no token", 401)
        return await go_on(request)

    @app.post("/session")
    def session(request: Request) -> Response:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if given != server.script.token:
            return Response("", 401)
        answer = Response(status_code=204)
        answer.set_cookie("session", given, httponly=True, samesite="strict")
        return answer

    @app.get("/stream")
    async def stream(request: Request, content: str = "", since: str = "") -> Response:
        if content not in ("", IDS[3]):
            hub.publish({("content", content): {"content_id": content, "known": False}})
        keys = (
            (*BOARD_PAGE, ("rejected", "")) if not content else (("tick", ""), ("pipeline", ""), ("content", content))
        )
        seen = hub.resumed_at(request.headers.get("last-event-id") or since)
        frames = hub.events(keys, seen, instant(server.script.now()) or "", content)
        return StreamingResponse(frames, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    app.include_router(page_routes())
    mount_page_files(app)
    app.add_middleware(StrictHeaders)
    return app


@contextmanager
def page_server() -> Iterator[PageServer]:
    made = PageServer()
    try:
        yield made
    finally:
        made.stop()
