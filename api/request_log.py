"""Each request under an id that the caller gives or gets: X-Request-ID. And the answer to one that failed by a defect:
said here, since nothing around the application sees what Starlette answers then.

Every request is counted (metrics.API_REQUESTS); a line in the log is for what somebody may look for: what came with an
id, was refused, failed, was slow, or changed something. Other reads, hundreds a second, are told at DEBUG.
"""

import re
import secrets
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import structlog

import metrics
from api.asgi import ASGIApp, Headers, Receive, Scope, Send, with_head

HEADER = b"x-request-id"
_FIT = re.compile(rb"[A-Za-z0-9._-]{1,64}")  # of a given id: nothing else goes into headers and logs
ASKED_BY_MACHINES = ("/health", "/ready", "/metrics", "/metrics/prometheus")  # every few seconds: at DEBUG
SLOW_S = 0.5

log = structlog.get_logger()


class RequestLog:
    """Around the whole application. What is logged while a request is answered carries its request_id.

    Of the path only the route is logged, of the query nothing. A stream is logged when it ends."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = _given(scope)
        request_id = given or secrets.token_hex(16).encode()
        began = time.perf_counter()
        status = 0  # no answer has begun

        def named(answered: int, headers: Headers) -> Headers:
            nonlocal status
            status = answered
            return [*headers, (HEADER, request_id)]

        answer = with_head(send, named)
        with structlog.contextvars.bound_contextvars(request_id=request_id.decode()):
            try:
                await self._app(scope, receive, answer)
            except Exception:
                if status:
                    raise
                log.exception("request_failed")
                await _defect(answer, request_id)
            finally:
                _tell(scope, status or 500, time.perf_counter() - began, given is not None)


async def _defect(send: Send, request_id: bytes) -> None:
    detail = f"the server failed at this; its log says why, under the request_id {request_id.decode()}"
    await send({"type": "http.response.start", "status": 500, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": msgspec.json.encode({"detail": detail})})


def _given(scope: Scope) -> bytes | None:
    value = next((value for name, value in scope["headers"] if name == HEADER), b"")
    return value if _FIT.fullmatch(value) else None


def _tell(scope: Mapping[str, Any], status: int, seconds: float, wanted: bool) -> None:
    route = getattr(scope.get("route"), "path", "unmatched")
    if route != "/stream":  # it lasts as long as somebody looks
        metrics.API_REQUESTS.labels(route, str(status)).observe(seconds)
    slow = seconds >= SLOW_S and route != "/stream"
    say = _level(scope["method"], route, status, slow or wanted)
    say("request", method=scope["method"], route=route, status=status, duration_ms=round(seconds * 1000, 1))


def _level(method: str, route: str, status: int, wanted: bool) -> Any:
    """A 5xx is said by whoever failed, with the reason: WARN here, no event is lost by an answer that is not given."""
    if status >= 500:
        return log.warning
    quiet = route in ASKED_BY_MACHINES or (method == "GET" and status < 400 and not wanted)
    return log.debug if quiet else log.info
