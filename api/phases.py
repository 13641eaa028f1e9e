"""The one word that answers "is it true now?", and its sentence: facts -> phase, title, sentence. Pure.

`/health` and the stream say the same because both ask here. `lost` and `denied` are the page's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from api.stages import BOARD, CAPTURE, LATE_S, PartitionProgress, Stage

Name = Literal["starting", "no_board", "stalled", "sink_down", "catching_up", "behind", "empty", "idle", "live"]
Status = Literal["ok", "degraded", "down"]

IDLE_S = 30.0
BEFORE_THE_BOARD = (CAPTURE, BOARD)  # late, they make the board late
ROWS_WAIT = "New rows wait in PostgreSQL; nothing is lost."
FORGETS_SOON_S = 3600.0  # inside Kafka's retention by less than this: nobody may say that nothing is lost


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known at `now` (seconds since 1970).

    stages            the capture first, then the sinks
    partitions        of the topic
    redis_away_since  Redis has not answered since; None: it answers
    kafka_away_since  likewise
    newest_event      largest min(event time, Kafka timestamp) counted, seconds; None: nothing was counted
    newest_record     Kafka timestamp of the newest record, seconds; None: there is none
    ever              the topic has or had a record
    forgets_in_s      until Kafka drops the oldest record that waits; None: not known, or never
    """

    now: float
    stages: Sequence[Stage]
    partitions: int = 0
    redis_away_since: float | None = None
    kafka_away_since: float | None = None
    newest_event: float | None = None
    newest_record: float | None = None
    ever: bool = True
    forgets_in_s: float | None = None


@dataclass(frozen=True, slots=True)
class Phase:
    """status: for those who read one word; clock_at: the moment that a time of day in the sentence stands for (the
    sentence has it in UTC, the page shows the reader's zone)."""

    phase: Name
    title: str
    sentence: str
    status: Status
    clock_at: float | None = None


def phase_of(facts: Facts) -> Phase:
    """The first that matches wins."""
    for look in (_starting, _no_board, _stalled, _sink_down, _catching_up, _behind, _empty, _idle):
        if found := look(facts):
            return found
    return Phase("live", "Live", _live(facts), "ok")


def _starting(facts: Facts) -> Phase | None:
    if facts.redis_away_since is not None or facts.kafka_away_since is not None:
        return None
    # Of a board whose lag is not known yet nobody may say that it is live.
    waiting = [
        stage
        for stage in facts.stages
        if (stage.state == "starting" and stage.name != CAPTURE) or (stage.state == "unknown" and stage.name == BOARD)
    ]
    if not facts.stages:
        return Phase("starting", "Starting", "The first numbers come within a minute.", "degraded")
    if not waiting:
        return None
    capture = _of(facts, CAPTURE)
    begins = "Capture is running; " if capture and capture.on_time else ""
    reads = "reads its position" if len(waiting) == 1 else "read their positions"
    sentence = f"{begins}{_names(waiting)} {reads}. The first numbers come within a minute."
    return Phase("starting", "Starting", sentence, "degraded")


def _no_board(facts: Facts) -> Phase | None:
    since = facts.redis_away_since
    if since is None:
        return None
    sentence = f"Redis does not answer since {_clock(since)}. Events wait in Kafka; {_kept(facts)}"
    return Phase("no_board", "Board stopped", sentence, "down", since)


def _stalled(facts: Facts) -> Phase | None:
    if (since := facts.kafka_away_since) is not None:
        sentence = f"Kafka does not answer since {_clock(since)}. Rows wait in PostgreSQL; nothing is lost."
        return Phase("stalled", "Stalled", sentence, "down", since)
    # One whose breaker is open or whose processes are silent is down: that says more.
    stages = [stage for stage in facts.stages if stage.state not in ("stopped", "starting") and stage.stalled]
    if not stages:
        return None
    stage = min(stages, key=lambda each: each.name != BOARD)
    stuck = stage.stalled
    where = "" if stage.name == BOARD else f" at {stage.label}"
    still = about(max(each.unmoved_s for each in stuck))
    verb = "has" if len(stuck) == 1 else "have"
    others = len(stage.partitions) - len(stuck)
    rest = "" if not others else " The other one runs." if others == 1 else f" The other {others} run."
    sentence = f"Events arrive in Kafka, but {_partitions(stuck)} {verb} not moved{where} for {still}.{rest}"
    return Phase("stalled", "Stalled", sentence, "down")


def _sink_down(facts: Facts) -> Phase | None:
    down = [stage for stage in facts.stages if stage.state == "stopped"]
    if not down:
        return None
    title = f"{_names(down)} {'is' if len(down) == 1 else 'are'} down"
    sinks = [stage for stage in down if stage.name != CAPTURE]
    if sinks:
        waiting = max((stage.lag_events or 0 for stage in sinks), default=0)
        them = "it" if len(sinks) == 1 else "them"
        first = (
            f"{_capital(_events(waiting))} for {them} in Kafka; {_kept(facts)}"
            if waiting
            else f"Nothing waits for {them}; nothing is lost."
        )
    else:
        first = ROWS_WAIT
    sentence = f"{first} {_rest(facts, down)}".rstrip()
    board = any(stage.name in BEFORE_THE_BOARD for stage in down)
    return Phase("sink_down", title, sentence, "down" if board else "degraded")


def _rest(facts: Facts, down: Sequence[Stage]) -> str:
    """Who is on time, and whether the board is right."""
    on_time = [stage for stage in facts.stages if stage.on_time and stage.name != "dead_letters"]
    board = _of(facts, BOARD)
    if not on_time:
        return ""
    verb = "is" if len(on_time) == 1 else "are"
    capture = _of(facts, CAPTURE)
    right = ", so this board is right" if board in on_time and (capture is None or capture.on_time) else ""
    return f"{_names(on_time)} {verb} on time{right}."


def _catching_up(facts: Facts) -> Phase | None:
    stage = _worst(facts, "catching_up")
    if stage is None:
        return None
    waiting = f"About {_count(stage.lag_events or 0)} events wait in Kafka; {_kept(facts)}"
    if stage.name == CAPTURE:
        waiting = ROWS_WAIT
    done = "" if stage.done_in_s is None else about(stage.done_in_s)
    if stage.name in BEFORE_THE_BOARD:
        then = f" and will be live in {done}" if done else " and reads on"
        sentence = f"This board is {about(stage.lag_s)} behind{then}. {waiting}"
    else:
        then = f" and will be on time in {done}" if done else " and reads on"
        sentence = f"{stage.label} is {about(stage.lag_s)} behind{then}. {waiting} {_board(facts)}".rstrip()
    return Phase("catching_up", "Catching up", sentence, "degraded")


def _behind(facts: Facts) -> Phase | None:
    stage = _worst(facts, "behind")
    if stage is None:
        return None
    subject = "This board" if stage.name in BEFORE_THE_BOARD else stage.label
    sentence = f"{subject} is {about(stage.lag_s)} behind and not getting closer."
    if stage.name == CAPTURE:
        sentence = f"{sentence} {ROWS_WAIT}"
    if stage.name not in BEFORE_THE_BOARD:
        sentence = f"{sentence} {_board(facts)}".rstrip()
    if _forgets(facts):
        sentence = f"{sentence} {_capital(_kept(facts))}"
    return Phase("behind", "Falling behind", sentence, "degraded")


def _empty(facts: Facts) -> Phase | None:
    if facts.ever:
        return None
    sentence = "Everything is running. The board fills with the first row in engagement_events."
    return Phase("empty", "Waiting for the first event", sentence, "ok")


def _idle(facts: Facts) -> Phase | None:
    record = facts.newest_record
    if record is None or facts.now - record < IDLE_S or any(stage.lag_events for stage in facts.stages):
        return None
    since = record if facts.newest_event is None else facts.newest_event
    sentence = f"No events since {_clock(since)}. Everything is running and nothing waits: nobody is watching just now."
    return Phase("idle", "Quiet", sentence, "ok", since)


def _live(facts: Facts) -> str:
    """Who cannot be seen is not said to be on time."""
    unseen = [stage for stage in facts.stages if not stage.on_time]
    on_time = [stage for stage in facts.stages if stage.on_time and stage.name not in (CAPTURE, "dead_letters")]
    if not unseen:
        return "Every destination is on time."
    not_known = f"{_names(unseen)} {'is' if len(unseen) == 1 else 'are'} not known."
    if not on_time:
        return not_known
    return f"{_names(on_time)} {'is' if len(on_time) == 1 else 'are'} on time; {not_known}"


def _worst(facts: Facts, state: str) -> Stage | None:
    """What makes the board late before any other, else the one that is furthest behind."""
    found = [stage for stage in facts.stages if stage.state == state]
    return max(found, key=lambda each: (each.name in BEFORE_THE_BOARD, each.lag_s or 0.0), default=None)


def _board(facts: Facts) -> str:
    board, capture = _of(facts, BOARD), _of(facts, CAPTURE)
    if board is None or board.lag_s is None:
        return ""
    lag_s = max(board.lag_s, (capture.lag_s if capture else None) or 0.0)
    return f"This board is {about(lag_s)} behind too." if lag_s > LATE_S else "This board is on time."


def _kept(facts: Facts) -> str:
    """That nothing is lost, or when it will be; ends the sentence."""
    if not _forgets(facts):
        return "nothing is lost."
    left = facts.forgets_in_s or 0.0
    return f"Kafka starts to forget in {about(left)}." if left > 0 else "Kafka has begun to forget."


def _forgets(facts: Facts) -> bool:
    return facts.forgets_in_s is not None and facts.forgets_in_s < FORGETS_SOON_S


def _of(facts: Facts, name: str) -> Stage | None:
    return next((stage for stage in facts.stages if stage.name == name), None)


def _names(stages: Sequence[Stage]) -> str:
    return _listed([stage.label for stage in stages])


def _partitions(stuck: Sequence[PartitionProgress]) -> str:
    numbers = sorted(each.partition for each in stuck)
    if len(numbers) > 4:
        return f"{len(numbers)} partitions"
    return f"partition{'s' if len(numbers) > 1 else ''} {_listed([str(number) for number in numbers])}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _events(count: int) -> str:
    return f"{_count(count)} {'event waits' if count == 1 else 'events wait'}"


def _count(count: int) -> str:
    """Rounded, to stand still: 1.2 million, 565,000, 12,000, 830, 7."""
    if count >= 999_500:
        millions = count / 1_000_000
        return f"{millions:.1f} million".replace(".0 ", " ") if millions < 100 else f"{millions:,.0f} million"
    for above, step in ((100_000, 5000), (10_000, 1000), (1000, 100), (100, 10)):
        if count >= above:
            return f"{round(count / step) * step:,}"
    return str(count)


def about(seconds: float | None) -> str:
    """A duration, rounded, to stand still: about 40 s, about 6 min, about 3 hours, about 2 days."""
    if seconds is None:
        return "some time"
    if seconds < 20:
        return f"about {max(1, round(seconds))} s"
    if seconds < 95:
        return f"about {round(seconds / 10) * 10} s"
    if seconds < 90 * 60:
        return f"about {max(2, round(seconds / 60))} min"
    if seconds < 36 * 3600:
        return f"about {round(seconds / 3600)} hours"
    return f"about {round(seconds / 86400)} days"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M")
