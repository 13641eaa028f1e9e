"""The routes: what is on top, one content, past windows, metrics. Each answers from Redis alone."""

import hmac
import time
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

import redis
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from redis.exceptions import RedisClusterException

from api.queries import TotalsReader
from api.request_log import RequestLog
from api.service_metrics import as_json, as_prometheus, troubles
from engagement.events import is_uuid
from sinks.redis_status import StatusBoard

CONTENT_ID_MAX = 64
ContentId = Annotated[str, Path(description="1 to 64 characters")]


def create_app(
    totals: TotalsReader,
    status: StatusBoard,
    *,
    token: str | None = None,
    now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
) -> FastAPI:
    """The application. totals and status read Redis; now_us: microseconds since 1970.

    token  what every route but /health asks for as `Authorization: Bearer`; None: nothing
    """
    guarded = APIRouter(dependencies=[Depends(_bearer(token))] if token else [])
    app = FastAPI(title="Engagement", description="Live boards over user-engagement events", docs_url="/docs")
    app.add_middleware(RequestLog)
    app.add_exception_handler(redis.RedisError, _redis_away)
    app.add_exception_handler(RedisClusterException, _redis_away)

    @guarded.get("/top-content")
    def top_content(
        limit: Annotated[int, Query(ge=1, le=100)] = 10, window: Literal["rolling", "tumbling"] = "rolling"
    ) -> dict[str, Any]:
        """The contents with the highest score: of the last ten minutes, or of the window that contains now."""
        return totals.top_content(window, limit, now_us())

    # An id may contain slashes, so its path takes all there is.
    @guarded.get("/content/{content_id:path}/stats")
    def stats(content_id: ContentId) -> dict[str, Any]:
        """One content: its fields and its numbers; zeros while it is idle."""
        found: dict[str, Any] = _found(totals.stats(_checked(content_id), now_us()), content_id)
        return found

    @guarded.get("/content/{content_id:path}/events")
    def events(content_id: ContentId, count: Annotated[int, Query(ge=1, le=50)] = 50) -> dict[str, Any]:
        """The newest events of a content within the last hour, newest event_ts first."""
        found = totals.recent_events(_checked(content_id), count, now_us())
        return {"content_id": content_id, "events": _found(found, content_id)}

    @guarded.get("/windows/{start}")
    def window(start: datetime, limit: Annotated[int, Query(ge=1, le=100)] = 10) -> dict[str, Any]:
        """The board of a tumbling window by its start (ISO 8601 with zone): its state, its events and the late ones."""
        if start.tzinfo is None:
            raise HTTPException(422, "start has no zone: write for example 2025-08-10T14:30:00Z")
        found = totals.window(round(start.timestamp() * 1_000_000), limit, now_us())
        if found is None:
            raise HTTPException(404, f"no window that starts at {start.isoformat()} is kept: they are for 60 minutes")
        return found

    @guarded.get("/metrics")
    def metrics() -> dict[str, Any]:
        """Counters and ages as JSON."""
        return as_json(totals.positions(), status.read())

    @guarded.get("/metrics/prometheus")
    def prometheus() -> Response:
        """The same as Prometheus reads it."""
        text = as_prometheus(as_json(totals.positions(), status.read()))
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/health")
    def health() -> dict[str, Any]:
        """Every living process in its own words, what they wait for, and where the totals stand."""
        processes = as_json([], status.read())["processes"]
        trouble = troubles(processes)
        return {
            "status": "degraded" if trouble else "ok",
            "troubles": trouble,
            "partitions": {
                position.partition: {"offset_next": position.offset_next, "newest_ms": position.newest_ms}
                for position in totals.positions()
            },
            "processes": processes,
        }

    app.include_router(guarded)
    return app


def _bearer(token: str) -> Callable[..., None]:
    """Answers 401 to whoever does not know the token."""
    scheme = HTTPBearer(auto_error=False)

    def check(given: Annotated[HTTPAuthorizationCredentials | None, Depends(scheme)]) -> None:
        if given is None or not hmac.compare_digest(given.credentials.encode(), token.encode()):
            raise HTTPException(
                401, "send the header Authorization: Bearer with API_TOKEN", headers={"WWW-Authenticate": "Bearer"}
            )

    return check


def _checked(content_id: str) -> str:
    """The id as it is stored: in lower case where it is a UUID. 422 for one that no content can have."""
    if not 1 <= len(content_id) <= CONTENT_ID_MAX:
        raise HTTPException(422, f"content_id must have 1 to {CONTENT_ID_MAX} characters")
    return content_id.lower() if is_uuid(content_id.lower()) else content_id


def _found(answer: Any, content_id: str) -> Any:
    if answer is None:
        raise HTTPException(404, f"no content {content_id} is known")
    return answer


async def _redis_away(request: Request, failure: Exception) -> JSONResponse:
    return JSONResponse({"detail": f"Redis does not answer: {failure}"}, 503, headers={"Retry-After": "1"})
