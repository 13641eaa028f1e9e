"""What is shown of dead letters: counts of an hour, and examples without users."""

import json
from typing import Any

import pytest

from api.rejected import EXAMPLE_MAX, REASONS_MAX, RejectedLetters, masked, without_examples

NOW = 1_800_000_000.0


class Letter:
    """As confluent_kafka gives it."""

    def __init__(self, at: float, value: bytes = b"{}", **headers: str) -> None:
        self._at, self._value, self._headers = at, value, headers

    def headers(self) -> Any:
        return [(name, text.encode()) for name, text in self._headers.items()]

    def timestamp(self) -> tuple[int, int]:
        return 2, int(self._at * 1000)

    def partition(self) -> int:
        return 1

    def offset(self) -> int:
        return 7

    def value(self) -> bytes:
        return self._value


def letter(
    at: float = NOW, reason: str = "not_json", sink: str = "parse", value: bytes = b"{}", detail: str = "Why."
) -> Any:
    return Letter(at, value, reason=reason, sink=sink, detail=detail, partition="3", offset="1881220")


@pytest.fixture
def letters() -> RejectedLetters:
    return RejectedLetters({}, "letters")


def test_reasons_are_counted_for_an_hour(letters: RejectedLetters) -> None:
    letters.take([letter(NOW - 3000), letter(), letter(), letter(reason="wrong_user_id")])
    told = letters.rejected(NOW, 1000)
    assert (told["total"], told["read"]) == (4, 1000)
    assert [(each["reason"], each["count"]) for each in told["reasons"]] == [("not_json", 3), ("wrong_user_id", 1)]
    later = letters.rejected(NOW + 1000, None)
    assert [(each["reason"], each["count"]) for each in later["reasons"]] == [("not_json", 2), ("wrong_user_id", 1)]
    assert letters.rejected(NOW + 4000, None)["reasons"] == []


def test_the_newest_is_the_example_and_says_where_it_lay(letters: RejectedLetters) -> None:
    letters.take([letter(value=b"old"), letter(value=b'{"content_id": 7}', detail="content_id must be a string.")])
    (told,) = letters.rejected(NOW, None)["reasons"]
    assert told["example"] == {"partition": 3, "offset": 1881220, "text": '{"content_id":7}'}
    assert told["words"] == "content_id must be a string."
    assert told["command"] == "python -m operations.dead_letters show 1 7"
    assert not told["replayable"]


def test_what_a_destination_refused_can_be_replayed(letters: RejectedLetters) -> None:
    letters.take([letter(reason="refused", sink="partner")])
    (told,) = letters.rejected(NOW, None)["reasons"]
    assert told["replayable"]
    assert told["command"] == "python -m operations.dead_letters replay --reason refused"


def test_readers_are_shown_no_payload_and_no_command(letters: RejectedLetters) -> None:
    letters.take([letter(value=b"secret")])
    told = without_examples(letters.rejected(NOW, None))
    assert "secret" not in json.dumps(told)
    assert (told["reasons"][0]["count"], told["reasons"][0]["command"]) == (1, None)


def test_memory_is_bounded_whatever_comes(letters: RejectedLetters) -> None:
    letters.take([letter(reason=f"r{each}", value=b"x" * 1_000_000) for each in range(3 * REASONS_MAX)])
    told = letters.rejected(NOW, None)
    assert told["total"] == 3 * REASONS_MAX
    assert len(told["reasons"]) == REASONS_MAX + 1
    assert max(len(each["example"]["text"]) for each in told["reasons"]) == EXAMPLE_MAX


@pytest.mark.parametrize(
    "payload",
    [
        b'{"user_id": "ann-7", "event_type": "like"}',
        b'{"after": {"user_id": "ann-7"}}',
        b'{"raw_payload": {"anything": "ann-7"}}',
        b'[{"userId": "ann-7"}]',
        b'{"note": "from user_ann-7"}',
        b'{"note": "ann-7@example.org"}',
        b'{"user_id": "ann-7", broken',
        b'{"user_id": "ann-7',
        b"{user_id: 'ann-7'}",
        b"user_id=ann-7&event_type=play",
        b"play;user_ann-7;41000",
        b'\xff{"user_id":"ann-7"}',
        b'{"user_id":"' + b"x" * 300 + b'ann-7"',
    ],
)
def test_no_example_shows_a_user(payload: bytes) -> None:
    assert "ann-7" not in masked(payload)
    assert "…" in masked(payload)


@pytest.mark.parametrize("payload", [b"", b"null", b"\x00\x01", b"[" * 2000, b'{"a":' * 2000, "é".encode("latin-1")])
def test_any_bytes_can_be_shown(payload: bytes) -> None:
    shown = masked(payload)
    assert len(shown) <= EXAMPLE_MAX
    assert "\n" not in shown
