"""The one word that answers "is it true now?", and its sentence: a function of what was seen."""

from collections.abc import Mapping
from dataclasses import dataclass

from demo.facts import Facts

BEHIND_MIN = 2000  # offsets that may wait without anybody being behind
IDLE_S = 30.0
WORDS = {"redis": "The board", "bigquery": "BigQuery", "partner": "Partner", "dead_letters": "Dead letters"}


@dataclass(frozen=True)
class State:
    """word: shown large; sentence: what it means now; tone: ok, info, warn or bad."""

    word: str
    sentence: str
    tone: str


def state_of(facts: Facts, failed: Mapping[str, str]) -> State:
    """failed  processes that are not running, with the reason in words. The first that matches wins."""
    if failed:
        names = ", ".join(sorted(failed))
        return State("Restarting", f"{names}: started again in a moment. Nothing is lost: Kafka keeps it.", "warn")
    if facts.unread:
        system = next(iter(facts.unread))
        return State(f"{system} is silent", f"{system} does not answer. Events wait in Kafka; nothing is lost.", "bad")
    if not facts.moving:
        return State("Starting", "The first numbers come within seconds.", "info")
    for sink, seen in facts.sinks.items():
        if seen.open:
            waiting = f"{seen.waiting:,} events wait" if seen.waiting else "Events wait"
            return State(f"{WORDS[sink]} is down", f"{waiting} for it in Kafka; nothing is lost. {seen.error}", "bad")
    for sink, seen in facts.sinks.items():
        if (seen.waiting or 0) > BEHIND_MIN and not seen.silent:  # silent: its process is still to come
            doing = "and not getting closer" if seen.growing else "and catching up"
            word = "Falling behind" if seen.growing else "Catching up"
            return State(word, f"{WORDS[sink]} is {seen.waiting:,} events behind {doing}.", "warn")
    if facts.age_s is not None and facts.age_s > IDLE_S:
        return State("Quiet", "No events for a while. Everything is running and nothing waits.", "info")
    return State("Live", "Every destination is on time.", "ok")
