"""What is wrong at a stage: what its destination said, since when, and what a person should do."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from api.phases import about
from api.processes import Heard
from api.stages import CAPTURE, UNMOVED_S, Trouble

POSTGRES = "PostgreSQL: "  # how a flow begins to say that it waits for it
POSTGRES_AWAY_S = 10.0


def trouble_of(
    name: str, heard: Sequence[Heard], silent_s: float, now: float, forgets_at: float | None = None
) -> Trouble | None:
    """What the destination said, what the process waits for, or that nobody speaks.

    heard  the processes of this stage; forgets_at: when Kafka drops the oldest event that waits, seconds since 1970
    """
    if silent_s >= UNMOVED_S:
        words = f"Its process has said nothing for {about(silent_s)}." if heard else "No process has this destination."
        return Trouble(now - silent_s, words, _start(name))
    for each in heard:
        of = each.sinks.get(name, {})
        if error := of.get("error"):
            return Trouble(float(of.get("error_since") or each.at), _sentence(error), _by_itself(name, forgets_at))
    for each in heard:
        if each.waiting:
            since = float(each.values.get("process", {}).get("waiting_since") or each.at)
            return Trouble(since, _sentence(each.waiting), "It goes on by itself once that is over.")
    return None


def postgres_away(processes: Iterable[Mapping[str, Any]], now: float) -> Trouble | None:
    """What those say who look contents up in the PostgreSQL that the capture reads, and have waited for a while."""
    for said in processes:
        process = said.get("process", {})
        waiting, since = str(process.get("waiting") or ""), process.get("waiting_since")
        if POSTGRES in waiting and since is not None and now - since >= POSTGRES_AWAY_S:
            return Trouble(float(since), _sentence(waiting), "It goes on by itself once PostgreSQL answers.")
    return None


def redis_away(since: float, failure: str) -> Trouble:
    """What the board's stage says while nobody can be heard through Redis."""
    return Trouble(since, f"Redis does not answer: {_sentence(failure)}", _by_itself("redis", None))


def _sentence(words: str) -> str:
    words = words.strip()
    return f"{words[:1].upper()}{words[1:]}{'' if words.endswith(('.', '!', '?')) else '.'}"


def _by_itself(name: str, forgets_at: float | None) -> str:
    again = {
        "partner": "It sends by itself, in order, once the partner answers.",
        "bigquery": "It loads by itself, in order, once BigQuery answers.",
        "redis": "It counts on by itself once Redis answers.",
    }.get(name, "It goes on by itself.")
    if forgets_at is None:
        return f"Nothing to do here unless it lasts. {again}"
    until = datetime.fromtimestamp(forgets_at, UTC).strftime("%b %d %H:%M")
    return f"Nothing to do here unless it lasts past {until} UTC, when Kafka starts to forget. {again}"


def _start(name: str) -> str:
    if name == CAPTURE:
        return (
            "Start it: python -m bytewax.run dataflows.cdc_capture. It sends what PostgreSQL kept, whose disk fills "
            "meanwhile."
        )
    return f"Start it: SINKS={name} python -m bytewax.run dataflows.engagement. It goes on from its stored position."
