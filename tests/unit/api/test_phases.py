"""Every row of the table of states: when it matches, its exact words, and which one wins."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.phases import IDLE_S, Facts, phase_of
from api.stages import LABELS, Breaker, PartitionProgress, Stage, Trouble

NOW = datetime(2026, 11, 21, 14, 26, 30, tzinfo=UTC).timestamp()
AT_14_22 = datetime(2026, 11, 21, 14, 22, 10, tzinfo=UTC).timestamp()
AT_14_04 = datetime(2026, 11, 21, 14, 4, 59, tzinfo=UTC).timestamp()
TROUBLE = Trouble(AT_14_22, "The partner answers 503.", "Wait.")


def on_time(name: str) -> Stage:
    return Stage(name, "ok", lag_s=0.5, lag_events=0, rate=100, trend="steady")


ALL = tuple(on_time(name) for name in LABELS)
LIVE = Facts(NOW, ALL, partitions=8, newest_event=NOW - 1, newest_record=NOW - 1)


def with_stage(facts: Facts, name: str, **changes: object) -> Facts:
    stages = [replace(stage, **changes) if stage.name == name else stage for stage in facts.stages]  # type: ignore[arg-type]
    return replace(facts, stages=tuple(stages))


def eight(*unmoved: int, for_s: float = 40.0) -> tuple[PartitionProgress, ...]:
    """Eight partitions, of which these have not moved while events wait."""
    return tuple(
        PartitionProgress(
            each, 100, 150 if each in unmoved else 100, 50 * (each in unmoved), 1.0, for_s * (each in unmoved)
        )
        for each in range(8)
    )


STARTING = with_stage(LIVE, "redis", state="starting", lag_s=None, lag_events=None)
NO_BOARD = replace(LIVE, redis_away_since=AT_14_22)
STALLED = with_stage(LIVE, "redis", partitions=eight(5), lag_events=50, lag_s=40.0)
DOWN = with_stage(
    LIVE, "partner", state="stopped", lag_events=1_158_402, lag_s=738.0, breaker=Breaker("open", 12), error=TROUBLE
)
CATCHING_UP = with_stage(
    LIVE, "redis", state="catching_up", lag_s=372.0, lag_events=564_700, trend="shrinking", done_in_s=72.0
)
BEHIND = with_stage(LIVE, "bigquery", state="behind", lag_s=175.0, lag_events=90_000, trend="growing")
EMPTY = replace(LIVE, ever=False, newest_event=None, newest_record=None)
IDLE = replace(LIVE, newest_event=AT_14_04, newest_record=AT_14_04)

# facts, phase, title, sentence, status
TABLE = {
    "starting": (
        STARTING,
        "Starting",
        "Capture is running; Redis reads its position. The first numbers come within a minute.",
        "degraded",
    ),
    "no_board": (
        NO_BOARD,
        "Board stopped",
        "Redis does not answer since 14:22. Events wait in Kafka; nothing is lost.",
        "down",
    ),
    "stalled": (
        STALLED,
        "Stalled",
        "Events arrive in Kafka, but partition 5 has not moved for about 40 s. The other 7 run.",
        "down",
    ),
    "sink_down": (
        DOWN,
        "Partner is down",
        "1.2 million events wait for it in Kafka; nothing is lost. Capture, Redis and BigQuery are on time, so this "
        "board is right.",
        "degraded",
    ),
    "catching_up": (
        CATCHING_UP,
        "Catching up",
        "This board is about 6 min behind and will be live in about 70 s. About 565,000 events wait in Kafka; nothing "
        "is lost.",
        "degraded",
    ),
    "behind": (
        BEHIND,
        "Falling behind",
        "BigQuery is about 3 min behind and not getting closer. This board is on time.",
        "degraded",
    ),
    "empty": (
        EMPTY,
        "Waiting for the first event",
        "Everything is running. The board fills with the first row in engagement_events.",
        "ok",
    ),
    "idle": (
        IDLE,
        "Quiet",
        "No events since 14:04. Everything is running and nothing waits: nobody is watching just now.",
        "ok",
    ),
    "live": (LIVE, "Live", "Every destination is on time.", "ok"),
}


@pytest.mark.parametrize("phase", TABLE)
def test_every_row_of_the_table_has_its_words(phase: str) -> None:
    facts, title, sentence, status = TABLE[phase]
    found = phase_of(facts)
    assert (found.phase, found.title, found.sentence, found.status) == (phase, title, sentence, status)


@pytest.mark.parametrize("phase", ["no_board", "idle"])
def test_a_time_of_day_says_which_moment_it_is(phase: str) -> None:
    found = phase_of(TABLE[phase][0])
    assert found.clock_at in (AT_14_22, AT_14_04)
    assert datetime.fromtimestamp(found.clock_at, UTC).strftime("%H:%M") in found.sentence


def together(earlier: str, later: str) -> Facts:
    """Both rows match. Of a stage with two troubles the earlier row has the word; starting needs Redis to answer."""
    first, second = TABLE[earlier][0], TABLE[later][0]
    stages = [
        mine if mine != live else theirs for mine, theirs, live in zip(first.stages, second.stages, ALL, strict=True)
    ]
    quiet = IDLE in (first, second)
    return replace(
        second,
        stages=tuple(stages),
        redis_away_since=first.redis_away_since or second.redis_away_since,
        ever=first.ever and second.ever,
        newest_event=AT_14_04 if quiet else second.newest_event,
        newest_record=AT_14_04 if quiet else second.newest_record,
    )


ROWS = list(TABLE)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (earlier, later)
        for place, earlier in enumerate(ROWS[:-1])
        for later in ROWS[place + 1 :]
        if (earlier, later) != ("starting", "no_board")
    ],
)
def test_the_first_that_matches_wins(earlier: str, later: str) -> None:
    assert phase_of(together(earlier, later)).phase == earlier


def test_whether_a_position_is_missing_cannot_be_known_while_redis_is_silent() -> None:
    assert phase_of(together("starting", "no_board")).phase == "no_board"


def test_a_board_whose_lag_is_not_known_is_not_called_live() -> None:
    assert phase_of(with_stage(LIVE, "redis", state="unknown", lag_s=None)).phase == "starting"


def test_before_the_first_look_nothing_is_called_live() -> None:
    assert phase_of(Facts(NOW, ())).phase == "starting"


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (
            with_stage(LIVE, "partner", state="unknown", lag_s=None),
            "Redis and BigQuery are on time; Partner is not known.",
        ),
        (with_stage(LIVE, "partner", state="stopped", lag_events=0), "Nothing waits for it; nothing is lost."),
        (
            with_stage(LIVE, "redis", state="stopped", lag_events=830),
            "830 events wait for it in Kafka; nothing is lost. Capture, BigQuery and Partner are on time.",
        ),
        (
            with_stage(LIVE, "capture", state="stopped", lag_events=None),
            "New rows wait in PostgreSQL; nothing is lost. Redis, BigQuery and Partner are on time.",
        ),
        (
            with_stage(LIVE, "redis", partitions=eight(0, 1, 2, 3, 4, 5, 6, 7)),
            "Events arrive in Kafka, but 8 partitions have not moved for about 40 s.",
        ),
        (
            with_stage(LIVE, "bigquery", partitions=eight(2, 3), lag_events=100),
            "Events arrive in Kafka, but partitions 2 and 3 have not moved at BigQuery for about 40 s. The other "
            "6 run.",
        ),
        (replace(LIVE, kafka_away_since=AT_14_22), "Kafka does not answer since 14:22."),
        (
            with_stage(LIVE, "bigquery", state="catching_up", lag_s=355.0, lag_events=7310, done_in_s=None),
            "BigQuery is about 6 min behind and reads on. About 7,300 events wait in Kafka; nothing is lost. This "
            "board is on time.",
        ),
        (
            with_stage(BEHIND, "redis", state="behind", lag_s=60.0, lag_events=1),
            "This board is about 60 s behind and not getting closer.",
        ),
        (
            with_stage(LIVE, "capture", state="catching_up", lag_s=355.0, lag_events=None, done_in_s=70.0),
            "This board is about 6 min behind and will be live in about 70 s. New rows wait in PostgreSQL; nothing is "
            "lost.",
        ),
        (
            with_stage(LIVE, "capture", state="behind", lag_s=20.0, lag_events=None),
            "This board is about 20 s behind and not getting closer. New rows wait in PostgreSQL; nothing is lost.",
        ),
        (
            with_stage(
                with_stage(LIVE, "capture", state="behind", lag_s=600.0),
                "partner",
                state="catching_up",
                lag_s=60.0,
                lag_events=100,
            ),
            "Partner is about 60 s behind and reads on. About 100 events wait in Kafka; nothing is lost. This board is "
            "about 10 min behind too.",
        ),
        (
            with_stage(DOWN, "capture", state="catching_up", lag_s=60.0),
            "1.2 million events wait for it in Kafka; nothing is lost. Redis and BigQuery are on time.",
        ),
        (
            replace(DOWN, forgets_in_s=2400.0),
            "1.2 million events wait for it in Kafka; Kafka starts to forget in about 40 min. Capture, Redis and "
            "BigQuery are on time, so this board is right.",
        ),
        (replace(CATCHING_UP, forgets_in_s=-1.0), "Kafka has begun to forget."),
    ],
)
def test_what_else_may_be_said(facts: Facts, words: str) -> None:
    assert words in phase_of(facts).sentence


def test_two_that_are_down_are_named_together() -> None:
    found = phase_of(with_stage(DOWN, "bigquery", state="stopped", lag_events=12))
    assert found.title == "BigQuery and Partner are down"
    assert "wait for them in Kafka" in found.sentence


stages = st.builds(
    Stage,
    st.just("redis"),
    st.sampled_from(["ok", "idle", "starting", "catching_up", "behind", "stopped", "unknown"]),
    lag_s=st.none() | st.floats(0, 1e6),
    lag_events=st.none() | st.integers(0, 10**9),
    done_in_s=st.none() | st.floats(0.1, 1e6),
    partitions=st.sampled_from([(), eight(), eight(5), eight(1, 2)]),
)


@st.composite
def facts_of(draw: st.DrawFn) -> Facts:
    made = tuple(replace(draw(stages), name=name) for name in draw(st.sets(st.sampled_from(list(LABELS)), min_size=1)))
    return Facts(
        NOW,
        made,
        partitions=8,
        redis_away_since=draw(st.none() | st.just(AT_14_22)),
        kafka_away_since=draw(st.none() | st.just(AT_14_22)),
        newest_event=draw(st.none() | st.floats(NOW - 1e5, NOW)),
        newest_record=draw(st.none() | st.floats(NOW - 1e5, NOW)),
        ever=draw(st.booleans()),
        forgets_in_s=draw(st.none() | st.floats(-100, 1e6)),
    )


@given(facts_of())
def test_no_sentence_promises_what_is_not_so(facts: Facts) -> None:
    found = phase_of(facts)
    by_name = {stage.name: stage for stage in facts.stages}
    assert found.sentence.endswith(".")
    assert "None" not in found.sentence
    if "so this board is right" in found.sentence:
        assert by_name["redis"].on_time
        assert "capture" not in by_name or by_name["capture"].on_time
    if "nothing is lost" in found.sentence and "in Kafka" in found.sentence:
        assert facts.forgets_in_s is None or facts.forgets_in_s >= 3600
    if found.sentence == "Every destination is on time.":
        assert all(stage.on_time for stage in facts.stages)
    if found.phase == "live":
        assert not any(stage.state in ("stopped", "catching_up", "behind") for stage in facts.stages)
        assert "redis" not in by_name or by_name["redis"].state != "unknown"
        assert not any(stage.state == "starting" for stage in facts.stages if stage.name != "capture")
    if found.phase == "idle":
        assert facts.newest_record is not None
        assert facts.now - facts.newest_record >= IDLE_S
    assert phase_of(facts) == found
