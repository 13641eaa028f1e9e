"""GET /stream: what the page shows, as server-sent events."""

import time
from typing import Annotated

from fastapi import APIRouter, Depends, Header, HTTPException, Query
from fastapi.responses import StreamingResponse

from api.access import Access, Role, required
from api.hub import Hub, Key
from api.stages import instant
from engagement.events import canonical_content_id

CLIENTS_MAX = 500
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
BOARD_PAGE: tuple[Key, ...] = (
    ("meta", ""),
    ("tick", ""),
    ("board", "rolling"),
    ("board", "tumbling"),
    ("windows", ""),
    ("pipeline", ""),
)


def stream_routes(hub: Hub, access: Access) -> APIRouter:
    """The route over this hub."""
    router = APIRouter()

    @router.get("/stream", response_class=StreamingResponse)
    async def stream(
        role: Annotated[Role, Depends(required(access))],
        content: Annotated[str | None, Query(min_length=1, max_length=64, description="instead of the boards")] = None,
        since: Annotated[str, Query(max_length=64, description="as Last-Event-ID, which a new EventSource lacks")] = "",
        last_event_id: Annotated[str, Header(max_length=64)] = "",
    ) -> StreamingResponse:
        """hello, then each kind's newest state: at once, and whenever it changes; a tick every second.

        Kinds: meta, tick, board (twice), windows, pipeline, rejected; with `content`: tick, pipeline, content.
        """
        if hub.clients >= CLIENTS_MAX:
            raise HTTPException(503, f"{CLIENTS_MAX} streams are open: come back later", headers={"Retry-After": "30"})
        keys: tuple[Key, ...] = (*BOARD_PAGE, ("rejected", role))
        if content is not None:
            content = canonical_content_id(content)
            keys = (("tick", ""), ("pipeline", ""), ("content", content))
        seen = hub.resumed_at(last_event_id or since)
        frames = hub.events(keys, seen, instant(time.time()) or "", content or "")
        return StreamingResponse(frames, media_type="text/event-stream", headers=HEADERS)

    return router
