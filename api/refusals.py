"""What a refused request is told: one sentence, under `detail`, whatever was wrong with it."""

from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"description": "a token is needed"},
    422: {"description": "a value that cannot be, named in `detail`"},
}


async def redis_away(request: Request, failure: Exception) -> JSONResponse:
    """503: whoever asks may ask again."""
    return JSONResponse({"detail": f"Redis does not answer: {failure}"}, 503, headers={"Retry-After": "1"})


async def unfit(request: Request, failure: Exception) -> JSONResponse:
    """422: each value that cannot be, by its name."""
    assert isinstance(failure, RequestValidationError)
    found = [f"{each['loc'][-1]}: {each['msg'][:1].lower()}{each['msg'][1:]}" for each in failure.errors()]
    return JSONResponse({"detail": "; ".join(found)}, 422)


async def nothing_here(request: Request, failure: Any) -> JSONResponse:
    """404 and 405 in the words of the route, or where there is none in ours. failure: Starlette's HTTPException."""
    detail = failure.detail
    if detail == HTTPStatus(failure.status_code).phrase:
        allowed = (failure.headers or {}).get("Allow")
        detail = f"this path takes {allowed} only" if allowed else "there is nothing at this path: /docs lists what is"
    return JSONResponse({"detail": detail}, failure.status_code, headers=failure.headers)
