"""Routes of what is counted: boards, contents, past windows. Each answers from Redis alone."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response

from api import reads
from api.answers import Answers, Longest, Together
from api.places import Places
from api.read_process import Readers
from api.reads import Wanted
from api.ready import Ready
from engagement.events import canonical_content_id

CONTENT_ID_MAX = 64
ContentId = Annotated[str, Path(description="1 to 64 characters")]


def content_routes(
    readers: Readers, places: Places, now_us: Callable[[], int], answers: Answers, ready: Ready
) -> APIRouter:
    """now_us: microseconds since 1970; answers, ready: of boards, which many ask for at once."""
    router = APIRouter()
    longest = Longest()

    @router.get("/top-content")
    async def top_content(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100)] = 10,
        window: Literal["rolling", "tumbling"] = "rolling",
    ) -> Response:
        """The contents with the highest score: of the last ten minutes, or of the window that contains now."""
        rows = longest.of(window, limit)
        board, until = await answers.get(
            ("top", window, rows), lambda: readers.boards(reads.top_content, window, rows, now_us())
        )
        return ready.keep(request, _answer(board.first(limit)), until)

    async def read(wanted: list[Wanted]) -> list[bytes | None]:
        now = now_us()
        stats_of = [each.content_id for each in wanted if each.events is None]
        if stats_of:
            await places.look(now)
        of_each = {content_id: places.of(content_id, now, comparable=True) for content_id in stats_of}
        return await readers.contents(reads.contents, wanted, of_each, now)

    together = Together(read)

    # An id may contain slashes, so its path takes all there is.
    @router.get("/content/{content_id:path}/stats")
    async def stats(content_id: ContentId) -> Response:
        """One content: its fields, its place and its numbers; zeros while it is idle."""
        wanted = Wanted(_checked(content_id))
        return _answer(_found(await together.get(wanted), wanted.content_id))

    @router.get("/content/{content_id:path}/events")
    async def events(
        content_id: ContentId, count: Annotated[int, Query(ge=1, le=reads.RECENT_MAX)] = reads.RECENT_MAX
    ) -> Response:
        """The newest events of a content within the last hour, newest event_ts first."""
        wanted = Wanted(_checked(content_id), count)
        return _answer(_found(await together.get(wanted), wanted.content_id))

    @router.get("/windows/{start}")
    async def window(request: Request, start: datetime, limit: Annotated[int, Query(ge=1, le=100)] = 10) -> Response:
        """The board of a tumbling window by its start (ISO 8601 with zone): its state, its events and the late ones."""
        if start.tzinfo is None:
            raise HTTPException(422, "start has no zone: write for example 2025-08-10T14:30:00Z")
        start_us = round(start.timestamp() * 1_000_000)

        async def board() -> bytes:
            found = await readers.boards(reads.window, start_us, limit, now_us())
            if found is None:
                raise HTTPException(
                    404, f"no window that starts at {start.isoformat()} is kept: they are for 60 minutes"
                )
            return found

        body, until = await answers.get(("window", start_us, limit), board)
        return ready.keep(request, _answer(body), until)

    return router


def _checked(content_id: str) -> str:
    """The id as it is stored. 422 for one that no content can have."""
    if not 1 <= len(content_id) <= CONTENT_ID_MAX:
        raise HTTPException(422, f"content_id must have 1 to {CONTENT_ID_MAX} characters")
    return canonical_content_id(content_id)


def _answer(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _found(answer: bytes | None, content_id: str) -> bytes:
    if answer is None:
        raise HTTPException(404, f"no content {content_id} is known")
    return answer
