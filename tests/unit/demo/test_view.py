"""The word that is shown, and that the view holds what it promises in any state."""

import dataclasses

import pytest
from rich.console import Console

from demo import view
from demo.facts import BoardRow, Facts, SinkFacts
from demo.state import state_of

ON_TIME = SinkFacts(waiting=0, silent=False)
LIVE = Facts(
    at=1.0,
    board=[BoardRow(1, "Introduction [to] Data", "video", 12.5, 9, 3, [0, 1, 2, 3, 4, 5, 6, 7, 8, 0])],
    events=1000,
    moving=True,
    rate=99.6,
    age_s=0.4,
    rejected=2,
    capture_bytes=2048,
    sinks={"redis": ON_TIME, "bigquery": ON_TIME, "partner": ON_TIME, "dead_letters": ON_TIME},
)


def but(**changes):
    return dataclasses.replace(LIVE, **changes)


@pytest.mark.parametrize(
    ("facts", "failed", "word"),
    [
        (LIVE, {}, "Live"),
        (LIVE, {"partner": "ended with 1: x"}, "Restarting"),
        (but(unread={"Redis": "refused"}), {}, "Redis is silent"),
        (Facts(), {}, "Starting"),
        (but(sinks={"partner": SinkFacts(waiting=5000, open=True, error="503")}), {}, "Partner is down"),
        (but(sinks={"bigquery": SinkFacts(waiting=5000, silent=False)}), {}, "Catching up"),
        (but(sinks={"bigquery": SinkFacts(waiting=5000, growing=True, silent=False)}), {}, "Falling behind"),
        (but(sinks={"redis": ON_TIME, "bigquery": SinkFacts(waiting=5000)}), {}, "Live"),
        (but(moving=False), {}, "Starting"),
        (but(age_s=31.0), {}, "Quiet"),
    ],
)
def test_the_word(facts, failed, word):
    assert state_of(facts, failed).word == word


def shown(facts, failed):
    console = Console(width=120, height=50, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(view.screen(facts, failed, "footer"))
    return console.export_text()


def test_the_screen_shows_state_board_and_destinations():
    text = shown(LIVE, {})
    for part in ("Live", "0.4 s", "100", "Introduction [to] Data", "12.5", "▂", "Partner", "2 rejected", "footer"):
        assert part in text


def test_a_process_that_is_not_running_is_shown_with_its_reason():
    assert "partner ended with 1: no topic" in shown(LIVE, {"partner": "ended with 1: no topic"})


def test_the_screen_keeps_its_height_while_it_fills():
    assert len(shown(LIVE, {}).splitlines()) == len(shown(but(board=[]), {}).splitlines())


def test_unknown_is_a_dash_and_no_zero():
    assert "–" in shown(Facts(sinks={"redis": SinkFacts()}), {})


def test_the_plain_line_names_the_first_of_the_board():
    line = view.line(LIVE, {})
    assert line.startswith("Live: 1,000 events, 100/s, newest 0.4 s, rejected 2")
    assert 'top: "Introduction [to] Data" 12.5' in line
    assert "capture ended" in view.line(LIVE, {"capture": "ended with 1: x"})
