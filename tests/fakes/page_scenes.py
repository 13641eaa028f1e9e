"""What the server tells the page in each of its states, with data made up: a scene is the newest event of each kind.

Sentences come from the function that the server asks (api.phases); the rest has the shapes of the real stream.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from api.phases import Facts, phase_of
from api.stages import Breaker, PartitionProgress, Stage, Trouble, instant, stage_json

Key = tuple[str, str]
Events = dict[Key, Any]

# 14:26:12 at the newsroom (ZONE), in the middle of a window.
AT = 1_795_260_372.4  # 2026-11-21T11:26:12.400Z
ZONE = "Asia/Qatar"
MINUTE_S = 60
WINDOW_S = 600

TITLES: list[tuple[str, str, int | None]] = [
    ("podcast", "لماذا ننسى أحلامنا؟ حوار مع باحثة في علوم الأعصاب", 3120),
    ("video", "The quiet return of night trains across Europe", 1260),
    ("newsletter", "Morning briefing: markets, weather and one chart to know", None),
    ("podcast", "كيف تغيّرت المدن العربية خلال عشر سنوات", 4380),
    ("video", "Introduction to Data Engineering", 1800),
    (
        "video",
        "What a 300-year-old ship’s log tells us about today’s storms, tides and the people who kept count: part two",
        2460,
    ),
    ("video", "شرح مبسّط: ما هو Change Data Capture ولماذا يهمّ فريق الأخبار؟", 720),
    ("podcast", "Forty years of radio in nine minutes", 540),
    ("newsletter", "نشرة الظهيرة: خمس قصص تستحق القراءة", None),
    ("video", "La mer monte, les villes apprennent", 980),
    ("podcast", "Weekend reads, no. 212", 1500),
    ("video", "How lentils conquered the kitchen", 610),
    ("newsletter", "The week in numbers", None),
    ("podcast", "صوت الصحراء: رحلة إلى الربع الخالي", 2700),
    ("video", "Inside the observatory at 3 am", 1440),
]
IDS = [f"123e4567-e89b-12d3-a456-4266141740{10 + place}" for place in range(len(TITLES))]
META = {
    content_id: {"content_title": title, "content_type": kind, "content_length_seconds": length}
    for content_id, (kind, title, length) in zip(IDS, TITLES, strict=True)
}
WEIGHT = {"video": 1.9, "podcast": 1.5, "newsletter": 0.36}
BEFORE = [2, 1, 3, 9, 4, 6, None, 7, 8, 12, 10, 11, 13, 14, 15]  # places five minutes ago, by place in TITLES
ARABIC = IDS[0]


def minutes_of(place: int) -> list[int]:
    """Events of the content in each of the last 60 minutes; the last one still fills."""
    highest = 26000 * 0.87**place / 9
    made = [round(highest * (0.85 + 0.3 * math.sin((minute + place * 7) / (4 + place % 5)))) for minute in range(60)]
    return [*made[:-1], made[-1] // 5]


def row(place: int, minutes: list[int], factor: float = 1.0) -> dict[str, Any]:
    events = round(sum(minutes) * factor)
    return {
        "content_id": IDS[place],
        "rank": 0,
        "rank_before": BEFORE[place],
        "score": round(events * WEIGHT[TITLES[place][0]] * (0.9 + ((place * 37) % 20) / 100), 3),
        "events": events,
        "unique_users": round(events * (0.31 + ((place * 13) % 9) / 50)),
        "minutes": minutes,
    }


def board(window: str, now: float, rows: list[dict[str, Any]], *, compared: bool = True) -> dict[str, Any]:
    """The event `board`: rows in the order of their scores. compared: with the board of five minutes ago."""
    start = now // WINDOW_S * WINDOW_S if window == "tumbling" else now // MINUTE_S * MINUTE_S - 9 * MINUTE_S
    ranked = sorted(rows, key=lambda each: -each["score"])[: 5 if window == "tumbling" else 20]
    return {
        "window": window,
        "start": instant(start),
        "end": instant(start + WINDOW_S),
        "newest_event_ts": instant(now - 1),
        "compared_with": instant(now - 300) if compared else None,
        "totals": {"events": sum(each["events"] for each in rows) * 2, "unique_users": 188_204},
        "rows": [{**each, "rank": place} for place, each in enumerate(ranked, 1)],
    }


def boards(now: float, *, read: int = 10, compared: bool = True) -> Events:
    """Both boards. read: so many of the ten minutes have been read."""
    rolling = [row(place, [*minutes_of(place)[50 : 50 + read], *[0] * (10 - read)]) for place in range(len(TITLES))]
    tumbling = [row(place, [*minutes_of(place)[54:], *[0] * 4]) for place in range(len(TITLES))]
    return {
        ("meta", ""): META,
        ("board", "rolling"): board("rolling", now, rolling, compared=compared),
        ("board", "tumbling"): board("tumbling", now, tumbling, compared=compared),
    }


def windows(now: float, events: Callable[[int], int | None] = lambda minute: 71_000 + (minute * 3791) % 32_000) -> Any:
    """Four windows. events: by number of the minute, 0 to 39; from the present one on nothing is known."""
    start, present = now // WINDOW_S * WINDOW_S, int(now % WINDOW_S // MINUTE_S)
    found = []
    for back, state, late in ((3, "closed", 318), (2, "closed", 42), (1, "late_accepted", 127), (0, "filling", 0)):
        minutes = [events((3 - back) * 10 + minute) for minute in range(10)]
        if back == 0:
            minutes = [each if minute <= present else None for minute, each in enumerate(minutes)]
        found.append(
            {
                "start": instant(start - back * WINDOW_S),
                "end": instant(start - back * WINDOW_S + WINDOW_S),
                "state": state,
                "minutes": minutes,
                "events": sum(each or 0 for each in minutes),
                "late": late if any(minutes) else 0,
            }
        )
    return {"windows": found}


def stages(**changed: Mapping[str, Any]) -> list[Stage]:
    """All stages on time, but for what is said of one by its name."""
    fine = {"state": "ok", "trend": "steady", "rate": 1524.0}
    usual = {
        "capture": {"lag_s": 0.3, "lag_events": 0},
        "redis": {"lag_s": 0.6, "lag_events": 12},
        "bigquery": {"lag_s": 4.1, "lag_events": 6204},
        "partner": {"lag_s": 1.2, "lag_events": 1804},
        "dead_letters": {"lag_s": 0.4, "lag_events": 0, "rate": 0.0},
    }
    return [Stage(name, **{**fine, **values, **changed.get(name, {})}) for name, values in usual.items()]


def partitions(stuck: Mapping[int, float], count: int = 8) -> list[PartitionProgress]:
    """stuck: partition -> seconds since it moved."""
    return [
        PartitionProgress(number, 1000, 5000 if number in stuck else 1000, 4000 if number in stuck else 0, 40.0, still)
        for number in range(count)
        for still in [stuck.get(number, 0.0)]
    ]


REJECTED = {
    "since": instant(AT - 3600),
    "total": 43,
    "read": 5_640_118,
    "reasons": [
        {
            "reason": "wrong_event_type",
            "count": 31,
            "words": "event_type must be one of play, pause, finish, click.",
            "replayable": True,
            "last_ts": instant(AT - 42),
            "example": {"partition": 3, "offset": 1_881_220, "text": '{"content_id":"9b2e41c7-…","event_type":"like"}'},
            "command": "python -m operations.dead_letters replay --reason wrong_event_type",
        },
        {
            "reason": "event_ts_in_future",
            "count": 9,
            "words": "The event is more than 5 minutes after its Kafka timestamp: check the clock of the sender.",
            "replayable": False,
            "last_ts": instant(AT - 611),
            "example": {"partition": 6, "offset": 1_880_417, "text": '{"event_ts":"2026-11-22T02:14:08Z", …}'},
            "command": "python -m operations.dead_letters show --reason event_ts_in_future",
        },
        {
            "reason": "not_json",
            "count": 3,
            "words": "The record is no JSON.",
            "replayable": False,
            "last_ts": instant(AT - 1911),
            "example": {"partition": 0, "offset": 1_879_002, "text": "play;9b2e41c7;41000"},
            "command": "python -m operations.dead_letters show --reason not_json",
        },
    ],
}
NOTHING_REJECTED = {"since": instant(AT - 3600), "total": 0, "read": 0, "reasons": []}


@dataclass(frozen=True)
class Scene:
    """What holds at a moment. facts: but for the time, and newest_event, which are seconds before now here.

    Each of the others is a function of the time, seconds since 1970."""

    facts: Facts
    age_s: float | None = 0.8
    rate: int | None = 1524
    people: int | None = 188_204
    boards: Callable[[float], Events] = boards
    windows: Callable[[float], Any] = windows
    rejected: Mapping[str, Any] | None = None

    def tick(self, now: float) -> dict[str, Any]:
        newest = None if self.age_s is None else now - self.age_s
        phase = phase_of(replace(self.facts, now=now, newest_event=newest, newest_record=newest))
        return {
            "now": instant(now),
            "phase": phase.phase,
            "title": phase.title,
            "sentence": phase.sentence,
            "clock_at": instant(phase.clock_at),
            "newest_event_ts": instant(newest),
            "events_per_s": self.rate,
            "rate_60": [
                self.rate and round(self.rate * (1 + 0.06 * math.sin(second / 7) + 0.03 * math.sin(second * 1.7)))
                for second in range(60)
            ],
            "people_10m": self.people,
        }

    def events(self, now: float) -> Events:
        """Everything, in the order in which a new client gets it."""
        return {
            **self.boards(now),
            ("tick", ""): self.tick(now),
            ("windows", ""): self.windows(now),
            ("pipeline", ""): self.pipeline(),
            ("rejected", ""): REJECTED if self.rejected is None else self.rejected,
        }

    def pipeline(self) -> dict[str, Any]:
        stalled = phase_of(self.facts).phase == "stalled"
        kafka = {"partitions": 8, "rate_in": self.rate, "stalled": stalled}
        return {"kafka": kafka, "stages": [stage_json(stage) for stage in self.facts.stages]}


def facts(now: float = AT, **more: Any) -> Facts:
    return Facts(**{"now": now, "stages": stages(), "partitions": 8, **more})


def nothing(now: float) -> Events:
    """Boards without a row."""
    return {
        ("meta", ""): {},
        ("board", "rolling"): board("rolling", now, [], compared=False),
        ("board", "tumbling"): board("tumbling", now, [], compared=False),
    }


IDLE = {
    name: {"state": "idle", "lag_s": 0.0, "lag_events": 0, "rate": 0.0}
    for name in ("capture", "redis", "bigquery", "partner", "dead_letters")
}
QUIET_S = 1334.0
SINK_STARTS = {"state": "starting", "lag_s": None, "lag_events": None, "rate": 0.0, "trend": None}
PARTNER_DOWN = {
    "state": "stopped",
    "lag_s": 738.0,
    "lag_events": 1_158_402,
    "rate": 0.0,
    "trend": "growing",
    "breaker": Breaker("open", 12.0),
    "error": Trouble(
        AT - 738,
        "The partner answers 503 Service Unavailable to every request.",
        "Nothing to do here unless it lasts past Nov 28 11:14 UTC, when Kafka starts to forget. "
        "It sends by itself, in order, once the partner answers.",
    ),
}
BEHIND = {"state": "behind", "lag_s": 185.0, "lag_events": 290_410, "rate": 1490.0, "trend": "growing"}


def catching_up(lag_s: float, lag_events: int, rate: float, done_in_s: float) -> dict[str, Any]:
    return {
        "state": "catching_up",
        "lag_s": lag_s,
        "lag_events": lag_events,
        "rate": rate,
        "trend": "shrinking",
        "done_in_s": done_in_s,
    }


SCENES: dict[str, Scene] = {
    "live": Scene(facts()),
    "starting": Scene(
        facts(stages=stages(redis=SINK_STARTS)),
        age_s=None,
        people=None,
        boards=nothing,
        windows=lambda now: windows(now, lambda minute: None),
        rejected=NOTHING_REJECTED,
    ),
    "no_board": Scene(
        facts(
            redis_away_since=AT - 240,
            stages=stages(
                redis={
                    "state": "stopped",
                    "lag_s": 240.0,
                    "lag_events": 361_220,
                    "rate": 0.0,
                    "trend": "growing",
                    "error": Trouble(AT - 240, "Redis does not answer: connection refused.", "Start Redis."),
                }
            ),
        ),
        age_s=241.0,
        people=None,
    ),
    "stalled": Scene(
        facts(stages=stages(redis={"lag_s": 41.0, "lag_events": 4000, "partitions": partitions({5: 41.0})})), age_s=1.0
    ),
    "sink_down": Scene(facts(stages=stages(partner=PARTNER_DOWN))),
    "catching_up": Scene(
        facts(
            stages=stages(
                redis=catching_up(372.0, 565_204, 9412.0, 71.0),
                bigquery=catching_up(355.0, 557_310, 8120.0, 85.0),
                partner=catching_up(371.0, 582_470, 2010.0, 1320.0),
            )
        ),
        age_s=372.0,
        boards=lambda now: boards(now, read=4, compared=False),
    ),
    "behind": Scene(facts(stages=stages(bigquery=BEHIND))),
    "empty": Scene(
        facts(stages=stages(**IDLE), ever=False),
        age_s=None,
        rate=0,
        people=0,
        boards=nothing,
        windows=lambda now: windows(now, lambda minute: 0),
        rejected=NOTHING_REJECTED,
    ),
    "idle": Scene(
        facts(stages=stages(**IDLE)),
        age_s=QUIET_S,
        rate=0,
        people=0,
        boards=nothing,
        windows=lambda now: windows(now, lambda minute: 71_000 + minute * 700 if minute < 14 else 0),
    ),
}


def content(now: float, place: int = 3) -> dict[str, Any]:
    """The event `content` of one that is on the board."""
    minutes = minutes_of(place)
    shown = row(place, minutes[50:])
    events = shown["events"]
    shares = (310, 420, 388, 402, 455, 530, 611, 702, 866, 1240, 96)
    kinds = ("play", "pause", "finish", "play", "click", "play", "pause", "play", "finish")
    percents = (50, 12.41, 98.2, 3.1, None, 77.5, 101.3, 24.06, 100)
    return {
        "content_id": IDS[place],
        "known": True,
        **META[IDS[place]],
        "newest_event_ts": instant(now - 0.9),
        "first_minute": instant(now // MINUTE_S * MINUTE_S - 59 * MINUTE_S),
        "minutes": minutes,
        "rolling": {
            **{name: shown[name] for name in ("score", "events", "unique_users", "rank_before")},
            "rank": 4,
            "compared_with": instant(now - 300),
            "mean_percentage": 61.4,
            "types": {
                "play": round(events * 0.46),
                "pause": round(events * 0.27),
                "finish": round(events * 0.12),
                "click": round(events * 0.15),
            },
        },
        "completion": [round(each * events / 6020) for each in shares],
        "no_pct": round(events * 0.08),
        "recent": [
            {
                "event_id": str(8_812_004 - 3 * number),
                "event_ts": instant(now - 1 - number * 1.4),
                "event_type": kind,
                "engagement_percentage": percent,
                "engagement_seconds": None if percent is None else round(percent * 43.8, 1),
                "device": ("mobile", "tv", "web")[number % 3],
                "anomalies": ["over_length"] if percent is not None and percent > 100 else [],
            }
            for number, (kind, percent) in enumerate(zip(kinds, percents, strict=True))
        ],
    }
