"""A board that was answered a moment ago is answered again: the same bytes, to those who may see it, for so long."""

import time

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.testclient import TestClient
from prometheus_client import REGISTRY

from api.access import Access, hashed, required
from api.answers import Longest
from api.reads import EncodedBoard
from api.ready import FromReady, Ready
from api.request_log import RequestLog

KNOWN = {"Authorization": "Bearer known"}


class Board:
    """An application with one board, which counts how often its route is asked."""

    def __init__(self, fresh_s: float, access: Access) -> None:
        self.asked = 0
        ready, caller = Ready(), required(access)
        app = FastAPI()
        app.add_middleware(FromReady, ready=ready, caller=caller)
        app.add_middleware(RequestLog)
        router = APIRouter(dependencies=[Depends(caller)])

        @router.get("/board/{name}")
        def board(request: Request, name: str, limit: int = 10) -> Response:
            self.asked += 1
            body = f"{name} {limit} {self.asked}"
            return ready.keep(request, Response(body, headers={"X-Board": name}), time.monotonic() + fresh_s)

        app.include_router(router)
        self.client = TestClient(app)

    def get(self, path: str) -> str:
        return str(self.client.get(path, headers=KNOWN).text)


ACCESS = Access({"read": hashed("known")})


def test_the_same_question_gets_the_same_answer_and_another_its_own() -> None:
    board = Board(60, ACCESS)
    assert [board.get("/board/a?limit=2"), board.get("/board/a?limit=2")] == ["a 2 1", "a 2 1"]
    assert board.get("/board/a?limit=3") == "a 3 2"
    assert board.get("/board/b?limit=2") == "b 2 3"
    assert board.client.get("/board/a?limit=2", headers=KNOWN).headers["x-board"] == "a"


def test_every_answer_is_counted_by_its_route_under_an_id_of_its_own() -> None:
    board = Board(60, ACCESS)
    labels = {"route": "/board/{name}", "status": "200"}
    before = REGISTRY.get_sample_value("api_request_seconds_count", labels) or 0
    ids = {board.client.get("/board/a", headers=KNOWN).headers["x-request-id"] for _ in range(3)}
    assert (len(ids), board.asked) == (3, 1)
    assert REGISTRY.get_sample_value("api_request_seconds_count", labels) == before + 3


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer guess"}, {"Cookie": "session=read.9999999999.0.0"}])
def test_who_may_not_ask_gets_nothing_of_it(headers: dict[str, str]) -> None:
    board = Board(60, ACCESS)
    assert board.get("/board/a") == "a 10 1"
    refused = board.client.get("/board/a", headers=headers)
    assert (refused.status_code, "a 10" in refused.text) == (401, False)


def test_what_is_no_longer_fresh_is_asked_for_anew() -> None:
    board = Board(0, ACCESS)
    assert [board.get("/board/a"), board.get("/board/a")] == ["a 10 1", "a 10 2"]


def test_other_methods_are_for_the_routes() -> None:
    board = Board(60, ACCESS)
    board.get("/board/a")
    assert board.client.post("/board/a", headers=KNOWN).status_code == 405


def test_the_longest_list_that_was_asked_for_lately_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    longest = Longest()
    assert [longest.of("rolling", each) for each in (10, 50, 20)] == [10, 50, 50]
    assert longest.of("tumbling", 5) == 5
    now += 6
    assert longest.of("rolling", 20) == 20


@pytest.mark.parametrize("rows", [0, 1, 2, 3])
def test_a_shorter_board_is_the_beginning_of_a_longer_one(rows: int) -> None:
    encoded = EncodedBoard.of({"window": "rolling", "start": None, "rows": [{"rank": 1}, {"rank": 2}]})
    held = ",".join(f'{{"rank":{rank}}}' for rank in (1, 2)[:rows])
    assert encoded.first(rows) == f'{{"window":"rolling","start":null,"rows":[{held}]}}'.encode()
