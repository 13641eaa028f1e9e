"""Who may ask what: bearer tokens, kept as hashes only, and the session cookie that the page gets for one."""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.security.base import SecurityBase

Role = Literal["read", "operate"]

COOKIE = "session"
SESSION_S = 12 * 3600
HASHED = "sha256:"


def hashed(token: str) -> bytes:
    """SHA-256 of a token; one that is given as `sha256:<64 hexadecimal digits>` is the hash itself."""
    if token.startswith(HASHED):
        return bytes.fromhex(token.removeprefix(HASHED))
    return hashlib.sha256(token.encode()).digest()


@dataclass(frozen=True)
class Access:
    """tokens: role -> hash of its token; none: everybody may do everything. clock: seconds since 1970.

    operate may all that read may, and see what was rejected word for word, with the commands to act on it.
    A session is a signed cookie: role and expiry under a key that lives as long as this process, so nothing is stored
    and a restart asks for the token again."""

    tokens: Mapping[Role, bytes] = field(default_factory=dict)
    clock: Callable[[], float] = time.time
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    @property
    def open(self) -> bool:
        return not self.tokens

    def of_token(self, token: str) -> Role | None:
        """The role of a token. Every hash is compared, in constant time."""
        given = hashlib.sha256(token.encode()).digest()
        roles = [role for role, known in self.tokens.items() if hmac.compare_digest(given, known)]
        return max(roles, key=("read", "operate").index, default=None)

    def session(self, role: Role) -> str:
        """The value of a new session's cookie."""
        content = f"{role}.{int(self.clock()) + SESSION_S}.{secrets.token_hex(8)}"
        return f"{content}.{self._signed(content)}"

    def of_session(self, cookie: str) -> Role | None:
        """The role of a session that has not expired."""
        content, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signed(content).encode()):
            return None
        role, expires, _ = content.split(".")
        if int(expires) <= self.clock():
            return None
        return "operate" if role == "operate" else "read"

    def _signed(self, content: str) -> str:
        return hmac.new(self._key, content.encode(), hashlib.sha256).hexdigest()


_BEARER = HTTPBearer(auto_error=False, description="API_TOKEN or API_READ_TOKEN")
Given = Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]


class Caller(SecurityBase):
    """For Depends: the caller's role. One dependency: functions that depend on one another are three, 20 us each."""

    model = _BEARER.model  # what the OpenAPI document says of it
    scheme_name = _BEARER.scheme_name

    def __init__(self, access: Access, *, required: bool) -> None:
        self._access, self._required = access, required

    async def __call__(self, request: Request) -> Role | None:
        """None: he shows nothing. 401 for a token that is not known, also where none is required: a route that answers
        strangers too must not tell one that guesses from one that is right without counting."""
        if self._access.open:
            return "operate"
        given = await _BEARER(request)
        cookie = request.cookies.get(COOKIE, "")
        found = self._access.of_token(given.credentials) if given else self._access.of_session(cookie)
        if found is None and (given or self._required):
            raise _unauthorised()
        return found


def role_of(access: Access) -> Caller:
    """Whoever asks, strangers too."""
    return Caller(access, required=False)


def required(access: Access) -> Caller:
    """401 for one who has no role."""
    return Caller(access, required=True)


def _unauthorised() -> HTTPException:
    return HTTPException(
        401,
        "send the header Authorization: Bearer with API_TOKEN or API_READ_TOKEN, or sign in on the page",
        headers={"WWW-Authenticate": "Bearer"},
    )


def session_routes(access: Access) -> APIRouter:
    """POST /session, DELETE /session: the page cannot send a header with its stream, and a token in a URL is logged."""
    router = APIRouter()

    @router.post("/session")
    async def sign_in(request: Request, response: Response, given: Given) -> dict[str, str]:
        """Swap the bearer token of this request for a cookie that lasts twelve hours."""
        role: Role | None = "operate" if access.open else access.of_token(given.credentials) if given else None
        if role is None:
            raise HTTPException(401, "the server does not know this token", headers={"WWW-Authenticate": "Bearer"})
        response.set_cookie(
            COOKIE,
            access.session(role),
            max_age=SESSION_S,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return {"role": role}

    @router.delete("/session", status_code=204)
    async def sign_out(response: Response) -> None:
        """Forget the cookie."""
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")

    return router
