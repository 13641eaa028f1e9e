"""Who may ask what: tokens, sessions, limits and headers."""

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.access import COOKIE, SESSION_S, Access, hashed
from api.app import create_app
from api.headers import CSP
from api.observer import Observer
from api.queries import TotalsReader
from api.read_process import in_threads
from settings import Settings, SettingsError
from sinks.redis_client import connect
from sinks.redis_status import StatusBoard
from tests.integration.sinks.redis_totals import keys_of

OPERATE, READ = "the-operator-knows-it", "readers-know-it"
GUARDED = (
    "/top-content",
    "/content/x/stats",
    "/content/x/events",
    "/windows/2025-08-10T14:30:00Z",
    "/metrics",
    "/metrics/prometheus",
    "/rejected",
    "/stream?since=x",
)
OPEN = ("/", "/c/x", "/static/page.css", "/docs", "/openapi.json", "/health")
NOW = 1_800_000_000.0


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(redis_url: str, unique: str, clock: Clock) -> Callable[..., TestClient]:
    """client(**of create_app): one that asks the application in this process."""

    def make(**options: Any) -> TestClient:
        redis = connect(redis_url)
        totals = TotalsReader(redis, keys_of(unique), lateness_seconds=600)
        options.setdefault("access", Access({"operate": hashed(OPERATE), "read": hashed(READ)}, clock))
        app = create_app(in_threads(totals), Observer(totals, StatusBoard(redis, unique)), **options)
        return TestClient(app, base_url="http://127.0.0.1")

    return make


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("path", GUARDED)
def test_who_has_no_token_is_told_what_to_send(client: Callable[..., TestClient], path: str) -> None:
    asked = client()
    wrong = [
        bearer("the-operator-knows"),
        bearer(""),
        {"Authorization": OPERATE},
        {"Cookie": f"{COOKIE}=operate.9999999999.0.0"},
    ]
    for headers in ({}, *wrong, {b"Authorization": "Bearer hush\u00e9".encode()}):
        answer = asked.get(path, headers=headers)  # type: ignore[arg-type]
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer"), headers
        assert "API_TOKEN" in answer.json()["detail"]


@pytest.mark.parametrize("path", [each for each in GUARDED if not each.startswith("/stream")])
@pytest.mark.parametrize("token", [OPERATE, READ])
def test_either_token_reads(client: Callable[..., TestClient], path: str, token: str) -> None:
    assert client().get(path, headers=bearer(token)).status_code not in (401, 403)


@pytest.mark.parametrize("path", OPEN)
def test_what_holds_no_data_is_open(client: Callable[..., TestClient], path: str) -> None:
    assert client().get(path).status_code == 200


def test_health_tells_strangers_the_state_and_no_names(client: Callable[..., TestClient]) -> None:
    asked = client()
    told = asked.get("/health").json()
    assert {"status", "services", "last_processed", "phase", "sentence"} <= told.keys()
    assert not {"processes", "troubles", "partitions", "stages"} & told.keys()
    assert {"processes", "troubles", "partitions", "stages"} <= asked.get("/health", headers=bearer(READ)).json().keys()


def test_a_token_may_be_given_as_its_hash(client: Callable[..., TestClient]) -> None:
    given = f"sha256:{hashlib.sha256(OPERATE.encode()).hexdigest()}"
    asked = client(access=Access({"operate": hashed(given)}))
    assert asked.get("/metrics", headers=bearer(OPERATE)).status_code == 200
    assert asked.get("/metrics", headers=bearer(given)).status_code == 401


def test_without_tokens_everybody_may_ask(client: Callable[..., TestClient]) -> None:
    assert client(access=Access()).get("/metrics").status_code == 200


def test_a_token_is_swapped_for_a_cookie_that_scripts_and_other_sites_cannot_use(
    client: Callable[..., TestClient], clock: Clock
) -> None:
    asked = client()
    assert asked.post("/session").status_code == 401
    assert asked.post("/session", headers=bearer("guess")).status_code == 401
    answer = asked.post("/session", headers=bearer(READ))
    assert answer.json() == {"role": "read"}
    cookie = answer.headers["set-cookie"]
    assert READ not in cookie
    assert {"HttpOnly", "SameSite=strict", f"Max-Age={SESSION_S}", "Path=/"} <= set(cookie.split("; "))
    assert asked.get("/metrics").status_code == 200
    clock.now += SESSION_S
    assert asked.get("/metrics").status_code == 401
    clock.now -= 1
    assert asked.get("/metrics").status_code == 200
    asked.delete("/session")
    assert asked.get("/metrics").status_code == 401


def test_over_https_the_cookie_stays_there(client: Callable[..., TestClient]) -> None:
    asked = client()
    asked.base_url = "https://board.example"  # type: ignore[assignment]
    assert "Secure" in asked.post("/session", headers=bearer(READ)).headers["set-cookie"]


@pytest.mark.parametrize(
    "change",
    [
        lambda cookie: cookie.replace("read", "operate"),
        lambda cookie: cookie[:-1] + ("0" if cookie[-1] != "0" else "1"),
        lambda cookie: cookie.rpartition(".")[0],
        lambda cookie: "",
        lambda cookie: "...",
    ],
)
def test_a_changed_cookie_opens_nothing(change: Callable[[str], str], clock: Clock) -> None:
    access = Access({"operate": hashed(OPERATE), "read": hashed(READ)}, clock)
    cookie = access.session("read")
    assert access.of_session(cookie) == "read"
    assert access.of_session(change(cookie)) is None
    assert Access({"operate": hashed(OPERATE)}, clock).of_session(cookie) is None  # of another life of the server


def test_too_many_requests_wait(client: Callable[..., TestClient]) -> None:
    asked = client(rate_limit="3/hour")
    assert [asked.get("/metrics", headers=bearer(READ)).status_code for _ in range(4)] == [200, 200, 200, 429]
    refused = asked.get("/metrics", headers=bearer(READ))
    assert 0 < int(refused.headers["Retry-After"]) <= 3600
    assert "try again in" in refused.json()["detail"]
    assert asked.get("/health").status_code == 200
    assert asked.get("/ready").status_code == 503  # nobody has looked at Redis: not refused


def test_who_guesses_tokens_is_stopped(client: Callable[..., TestClient]) -> None:
    asked = client()
    statuses = [asked.post("/session", headers=bearer(f"guess {each}")).status_code for each in range(25)]
    assert statuses == [401] * 20 + [429] * 5
    assert asked.post("/session", headers=bearer(OPERATE)).status_code == 429
    assert asked.get("/health").status_code == 200


def test_health_is_no_place_to_try_tokens(client: Callable[..., TestClient]) -> None:
    asked = client()
    statuses = [asked.get("/health", headers=bearer(f"guess {each}")).status_code for each in range(25)]
    assert statuses == [401] * 20 + [429] * 5
    assert asked.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("GET", "/nothing/here", 404, "nothing at this path"),
        ("GET", "/redoc", 404, "nothing at this path"),  # FastAPI's second page of the API, from a CDN too
        ("POST", "/top-content", 405, "takes GET only"),
        ("GET", "/top-content?limit=0&window=day", 422, "limit: input should be greater than or equal to 1; window: "),
        ("GET", "/stream?content=", 422, "content: "),
        ("GET", "/windows/noon", 422, "start: "),
        ("GET", "/content//stats", 422, "content_id must have 1 to 64 characters"),
        ("GET", "/content/x/events", 404, "no content x is known"),
    ],
)
def test_who_is_refused_is_told_why_in_a_sentence(
    client: Callable[..., TestClient], method: str, path: str, status: int, says: str
) -> None:
    answer = client().request(method, path, headers=bearer(READ))
    assert answer.status_code == status
    assert says in answer.json()["detail"]


def test_a_defect_answers_as_strictly_as_all_else(
    client: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Observer, "processes", lambda *_: 1 / 0)
    answer = client().get("/metrics", headers=bearer(READ) | {"X-Request-ID": "page-7"})
    assert (answer.status_code, answer.headers["Content-Security-Policy"]) == (500, CSP)
    assert answer.headers["X-Request-ID"] == "page-7"
    assert "request_id page-7" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/", "/c/x", "/static/page.js", "/top-content", "/health", "/nothing/here"])
def test_every_answer_is_strict(client: Callable[..., TestClient], path: str) -> None:
    headers = client().get(path).headers
    assert headers["Content-Security-Policy"] == CSP
    assert "unsafe" not in CSP
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == ("no-cache" if path in ("/", "/c/x", "/static/page.js") else "no-store")


def test_the_page_takes_its_theme_and_view_from_the_address(client: Callable[..., TestClient]) -> None:
    asked = client()
    assert '<html data-theme="dark" data-view="wall" lang="en">' in asked.get("/?theme=dark&view=wall").text
    assert '<html lang="en">' in asked.get("/").text
    assert '<html lang="en">' in asked.get('/c/x?theme="><script>&view=x').text


def test_a_file_that_has_not_changed_is_not_sent_again(client: Callable[..., TestClient]) -> None:
    asked = client()
    tag = asked.get("/static/page.js").headers["ETag"]
    assert asked.get("/static/page.js", headers={"If-None-Match": tag}).status_code == 304
    assert asked.get("/static/../app.py").status_code == 404


@pytest.mark.parametrize("name", ["API_TOKEN", "API_READ_TOKEN"])
def test_half_a_hash_is_no_token(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}=.*sha256: and 64 hexadecimal digits") as refused:
        Settings.from_env(env={name: "sha256:abc"})
    assert "abc" not in str(refused.value)


@pytest.mark.parametrize("path", ["/", "/health", "/top-content", "/static/page.css"])
def test_head_is_get_without_its_body(client: Callable[..., TestClient], path: str) -> None:
    asked = client(access=Access())
    got, told = asked.get(path), asked.head(path)
    assert (told.status_code, told.content) == (got.status_code, b"")
    assert told.headers["content-length"] == str(len(got.content))
    assert told.headers["content-security-policy"] == CSP


def test_a_stream_has_no_head(client: Callable[..., TestClient]) -> None:
    assert client(access=Access()).head("/stream").status_code == 405


def test_what_is_not_ready_says_why(client: Callable[..., TestClient]) -> None:
    answer = client().get("/ready")
    assert (answer.status_code, answer.json()["ready"]) == (503, False)
    assert answer.json()["detail"].startswith("Redis has not answered yet")
