"""What a destination says goes to logs without the values of events."""

import pytest

from sinks.masking import without_values


@pytest.mark.parametrize(
    ("words", "sent", "shown"),
    [
        ("no such user user_alice_2025", b'[{"user_id":"user_alice_2025"}]', "no such user …"),
        ('{"user_id":"ann","error":"unknown"}', b'{"user_id":"ann"}', '{"user_id":"…","error":"unknown"}'),
        ("user_id is missing", b'{"user_id": "user_7", "device" : "tv"}', "user_id is missing"),
        ("ann: not annoyed", b'["ann"]', "…: not annoyed"),
        ("who is Zo\u00eb?", b'{"user_id":"Zo\\u00eb"}', "who is …?"),
        ("who is Zo\\u00eb?", '{"user_id":"Zoë"}'.encode(), "who is …?"),
        ('he is "a\\"b"', b'{"user_id":"a\\"b"}', 'he is "…"'),
        (
            "deep inside: user_9",
            b'{"raw_payload":{"n":1e999,"big":99999999999999999999,"who":["user_9"]}}',
            "deep inside: …",
        ),
        ("whole is user_12, part is user_1", b'["user_1","user_12"]', "whole is …, part is …"),
        ("", b"", ""),
        ("not JSON", b'\xff"', "not JSON"),
    ],
)
def test_the_values_that_were_sent_are_masked_wherever_they_stand(words: str, sent: bytes, shown: str) -> None:
    assert without_values(words, sent) == shown
