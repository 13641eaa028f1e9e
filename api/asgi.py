"""What wrappers around the application share: ASGI's own types, and a hand on the head of an answer."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


def with_head(send: Send, change: Callable[[int, Headers], Headers]) -> Send:
    """`send`, but the headers of the answer are what `change(status, headers)` makes of them."""

    async def changed(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = change(message["status"], [*message.get("headers", ())])
        await send(message)

    return changed


class HeadAsGet:
    """HEAD is answered as GET is, without the body; not for a path that streams, since that has no end."""

    def __init__(self, app: ASGIApp, streams: str) -> None:
        self._app, self._streams = app, streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD" or scope["path"] == self._streams:
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app({**scope, "method": "GET"}, receive, without_body)
