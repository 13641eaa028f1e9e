"""So many requests of one client, and far fewer wrong tokens: 429 beyond, with Retry-After."""

import math
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter

from api.asgi import ASGIApp, Message, Receive, Scope, Send

UNAUTHORISED = parse("20/minute")  # a person who mistypes needs fewer, one who guesses needs more
UNLIMITED = ("/health", "/ready")  # whoever looks after the process may always ask, but not try tokens


class RateLimit:
    """Around the application. A client is an address; behind a proxy, the one that uvicorn takes from its headers.

    each  such as `1000/second`, in the notation of the library `limits`; counted in this process, and on its event
          loop: the library's other storage starts a thread for every few requests"""

    def __init__(self, app: ASGIApp, each: str) -> None:
        self._app = app
        self._requests: RateLimitItem = parse(each)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["path"] in UNLIMITED and not _has_token(scope)):
            await self._app(scope, receive, send)
            return
        client = scope["client"][0] if scope.get("client") else "unknown"
        if not await self._limiter.hit(self._requests, client):
            await self._refuse(send, self._requests, client)
            return
        if _has_token(scope) and not await self._limiter.test(UNAUTHORISED, client):
            await self._refuse(send, UNAUTHORISED, client)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 401:
                await self._limiter.hit(UNAUTHORISED, client)
            await send(message)

        await self._app(scope, receive, answer)

    async def _refuse(self, send: Send, limit: RateLimitItem, client: str) -> None:
        stats = await self._limiter.get_window_stats(limit, client)
        left_s = max(1, math.ceil(stats.reset_time - time.time()))
        detail = f"more than {limit} from one address: try again in {left_s} s"
        headers = [(b"content-type", b"application/json"), (b"retry-after", str(left_s).encode())]
        await send({"type": "http.response.start", "status": 429, "headers": headers})
        await send({"type": "http.response.body", "body": msgspec.json.encode({"detail": detail})})


def _has_token(scope: Mapping[str, Any]) -> bool:
    """Who sends none guesses none: a page whose session has ended may go on asking."""
    return any(name == b"authorization" for name, _ in scope["headers"])
