"""The page at / and /c/{content_id}, that of the API at /docs, and the files they are made of under /static."""

import hashlib
import os
from pathlib import Path

import fastapi_offline
from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles

from api.asgi import Scope
from api.headers import DOCS_CSP

FOLDER = Path(__file__).parent / "page"
SWAGGER_UI = Path(fastapi_offline.__file__).parent / "static"  # a copy of it: /docs asks nobody else for a script
INDEX, DOCS = "index.html", "docs.html"
NO_CACHE = {"Cache-Control": "no-cache"}
HTML = "<html lang="
CHOICES = {"theme": ("dark", "light"), "view": ("wall",)}


def build_of(folder: Path = FOLDER) -> str:
    """Names this state of the page's files: an open page that was loaded from another one loads itself anew."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def page_routes(folder: Path = FOLDER) -> APIRouter:
    """The page holds no data, so everybody may load it; what it shows comes from the stream."""
    router = APIRouter(include_in_schema=False)
    written = (folder / INDEX).read_text(encoding="utf-8")

    @router.get("/")
    @router.get("/c/{content_id:path}")
    async def page(theme: str = "", view: str = "") -> HTMLResponse:
        """theme: dark or light, instead of the reader's own; view: wall, for a screen across the room."""
        asked = {"theme": theme, "view": view}
        chosen = "".join(f' data-{name}="{asked[name]}"' for name, values in CHOICES.items() if asked[name] in values)
        html = written.replace(HTML, f"<html{chosen} lang=", 1)
        return HTMLResponse(html, headers=NO_CACHE)

    described = (folder / DOCS).read_text(encoding="utf-8")

    @router.get("/docs")
    async def docs() -> HTMLResponse:
        return HTMLResponse(described, headers={**NO_CACHE, "Content-Security-Policy": DOCS_CSP})

    return router


def mount_page_files(app: FastAPI) -> None:
    """Ours, and Swagger UI below them."""
    app.mount("/static/swagger-ui", PageFiles(SWAGGER_UI))
    app.mount("/static", PageFiles(FOLDER))


class PageFiles(StaticFiles):
    """Small files that change with a deployment: browsers keep them, and ask each time whether they are still right."""

    def __init__(self, folder: Path) -> None:
        super().__init__(directory=folder)

    def file_response(
        self, full_path: os.PathLike[str] | str, stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(NO_CACHE)
        return response
