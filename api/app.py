"""The application: the routes put together, and what runs beside them."""

import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Concatenate, ParamSpec, TypeVar

import redis
from fastapi import APIRouter, Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from redis.exceptions import RedisClusterException

from api.access import Access, required, session_routes
from api.answers import Answers
from api.asgi import HeadAsGet
from api.content_routes import content_routes
from api.headers import StrictHeaders
from api.health import health_routes, metrics_routes
from api.hub import Hub
from api.live import Live
from api.observer import Observer
from api.page_files import build_of, mount_page_files, page_routes
from api.queries import TotalsReader
from api.rate_limit import RateLimit
from api.read_process import Read, Readers
from api.ready import FromReady, Ready
from api.refusals import REFUSALS, nothing_here, redis_away, unfit
from api.rejected import RejectedLetters, rejected_routes
from api.request_log import RequestLog
from api.stages import instant
from api.stream import stream_routes

P = ParamSpec("P")
T = TypeVar("T")


def create_app(
    readers: Readers,
    observer: Observer,
    *,
    access: Access | None = None,
    letters: RejectedLetters | None = None,
    rate_limit: str = "1000/second",
    answers: Answers | None = None,
    now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    watches: bool = False,
) -> FastAPI:
    """The application over what is in Redis. now_us: microseconds since 1970.

    access   who may ask what; None: everybody everything
    letters  what the dead-letter topic holds; None: not looked at
    answers  keeps boards for a moment; None: each is computed anew
    watches  whether threads look at Redis and Kafka, and feed the stream, from its start to its end
    """
    access = access or Access()
    hub = Hub(secrets.token_hex(4), build_of())
    if watches:
        readers = _while_redis_answers(readers, observer, now_us)
    live = Live(readers, observer, hub, letters, now_us)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        stop = threading.Event()
        if watches:
            observer.run(stop)
            live.start(stop)
            if letters is not None:
                letters.start(stop)
        yield
        stop.set()

    app = FastAPI(
        title="Engagement",
        description="Live boards over user-engagement events",
        docs_url=None,  # among the pages, with the policy that it needs
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.hub = hub
    ready, caller = Ready(), required(access)
    app.add_middleware(FromReady, ready=ready, caller=caller)
    app.add_middleware(RateLimit, each=rate_limit)
    app.add_middleware(RequestLog)
    app.add_middleware(StrictHeaders)
    app.add_middleware(HeadAsGet, streams="/stream")
    app.add_exception_handler(redis.RedisError, redis_away)
    app.add_exception_handler(RedisClusterException, redis_away)
    app.add_exception_handler(RequestValidationError, unfit)
    app.add_exception_handler(404, nothing_here)
    app.add_exception_handler(405, nothing_here)
    guarded = APIRouter(dependencies=[Depends(caller)], responses=REFUSALS)
    guarded.include_router(content_routes(readers, live.places, now_us, answers or Answers(), ready))
    guarded.include_router(metrics_routes(observer, now_us))
    guarded.include_router(stream_routes(hub, access))
    guarded.include_router(rejected_routes(letters, access, live.rejected))
    app.include_router(guarded)
    app.include_router(health_routes(observer, access, now_us))
    app.include_router(session_routes(access))
    app.include_router(page_routes())
    mount_page_files(app)

    return app


def _while_redis_answers(readers: Readers, observer: Observer, now_us: Callable[[], int]) -> Readers:
    """Fail at once while Redis is known to be silent: else each would wait ten seconds, one behind the other."""

    def guarded(read: Read) -> Read:
        async def asked(what: Callable[Concatenate[TotalsReader, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
            since = observer.redis_away_since(now_us() / 1e6)
            if since is not None:
                raise redis.ConnectionError(f"no answer since {instant(since)}")
            return await read(what, *args, **kwargs)

        return asked

    return Readers(guarded(readers.boards), guarded(readers.contents))
