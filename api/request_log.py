"""One line in the log for each request, under an id that the caller gives or gets: X-Request-ID."""

import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import structlog

import metrics

HEADER = b"x-request-id"
_FIT = re.compile(rb"[A-Za-z0-9._-]{1,64}")  # of a given id: nothing else goes into headers and logs
ASKED_BY_MACHINES = ("/health", "/ready", "/metrics", "/metrics/prometheus")  # every few seconds: at DEBUG

Message = MutableMapping[str, Any]  # what ASGI calls so, and the next four
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

log = structlog.get_logger()


class RequestLog:
    """Around the whole application. What is logged while a request is answered carries its request_id too.

    Of the path only the route is logged, of the query nothing. A stream is logged when it ends."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _given(scope) or uuid.uuid4().hex.encode()
        began = time.perf_counter()
        status = 500  # unless an answer begins

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (HEADER, request_id)]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id.decode()):
            try:
                await self._app(scope, receive, answer)
            finally:
                _tell(scope, status, time.perf_counter() - began)


def _given(scope: Scope) -> bytes | None:
    value = next((value for name, value in scope["headers"] if name == HEADER), b"")
    return value if _FIT.fullmatch(value) else None


def _tell(scope: Mapping[str, Any], status: int, seconds: float) -> None:
    route = getattr(scope.get("route"), "path", "unmatched")
    if route != "/stream":  # it lasts as long as somebody looks
        metrics.API_REQUESTS.labels(route, str(status)).observe(seconds)
    # A 5xx is said by whoever failed, with the reason: WARN here, no event is lost by an answer that is not given.
    say = log.warning if status >= 500 else log.debug if route in ASKED_BY_MACHINES else log.info
    say("request", method=scope["method"], route=route, status=status, duration_ms=round(seconds * 1000, 1))
