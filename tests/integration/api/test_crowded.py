"""Users and recent events of contents with many events in some minutes and few in others, across partitions."""

from collections.abc import Sequence

import pytest
import redis

from api.queries import TotalsReader
from engagement import boards
from engagement.content_rows import shard_of
from engagement.totals import partial_totals
from engagement.totals_additions import CROWDED
from engagement.totals_state import PartitionTotals
from sinks.redis import RedisSink
from sinks.redis_client import connect
from sources.positions import PartitionId
from tests.integration.sinks.redis_totals import OPTIONS, keys_of, make_sink
from tests.unit.engagement.totals_batches import CONTENTS, IDS, NOON_MS, PARTITION, Record, batch

MINUTE = 60_000
NOW_US = (NOON_MS + 9 * MINUTE + 30_000) * 1000


class Written:
    """What a sink wrote, as readers see it at NOW_US."""

    def __init__(self, url: str, group: str) -> None:
        self.client = redis.Redis.from_url(url)
        self._sink: RedisSink = make_sink(url, group)
        self.reader = TotalsReader(connect(url), keys_of(group), lateness_seconds=600)

    def write(self, partition: int, *batches: Sequence[Record]) -> None:
        of, offset = PartitionId(PARTITION.topic, PARTITION.topic_id, partition), 0
        self._sink.claim(of, "owner")
        state = PartitionTotals(of, 0, **OPTIONS)
        for records in batches:
            update = state.add([partial_totals(batch(records, offset, of), **OPTIONS)])
            update.contents = CONTENTS.stored([1, 2])
            self._sink.write([update])
            offset += len(records)

    def users(self, content_id: str) -> int:
        stats = self.reader.stats(content_id, NOW_US)
        assert stats is not None
        assert stats["rolling"]["unique_users"] == stats["tumbling"]["unique_users"]
        return int(stats["rolling"]["unique_users"])


@pytest.fixture
def written(redis_url: str, unique: str) -> Written:
    return Written(redis_url, unique)


def watched(minute: int, users: range, content: str = IDS[0]) -> list[Record]:
    at = minute * MINUTE
    return [Record(at + place, at + place, content, user=f"user {user}") for place, user in enumerate(users)]


def test_users_are_exact_where_no_minute_is_crowded(written: Written) -> None:
    written.write(0, *(watched(minute, range(minute * 50, minute * 50 + 100)) for minute in range(10)))
    written.write(1, watched(3, range(500, 600)), watched(3, range(10, 20), IDS[1]))
    assert written.users(IDS[0]) == 600
    assert written.users(IDS[1]) == 10


def test_users_of_crowded_and_other_minutes_are_estimated_together(written: Written) -> None:
    crowd = range(4000)
    written.write(
        0, watched(1, range(100)), watched(2, crowd[:2000]), watched(2, crowd[2000:]), watched(5, range(50, 150))
    )
    written.write(1, watched(2, range(3950, 4050)))
    assert written.users(IDS[0]) == pytest.approx(4050, rel=0.03)
    assert not written.client.keys("*scratch")


def test_one_user_who_comes_back_all_the_time_is_one(written: Written) -> None:
    alone = range(7, 8)
    crowded = [Record(MINUTE, MINUTE, user="user 7")] * (CROWDED + 1)
    written.write(0, watched(0, alone), crowded, watched(2, alone), crowded)
    assert written.users(IDS[0]) == 1


@pytest.mark.parametrize("together", [1, 7, 60], ids=["one by one", "seven", "sixty"])
def test_the_newest_events_are_found_in_crowded_and_other_minutes(written: Written, together: int) -> None:
    records = [*watched(7, range(CROWDED + 40)), *watched(8, range(20)), *watched(7, range(5), IDS[1])]
    written.write(0, *(records[first : first + together] for first in range(0, len(records), together)))
    shown = written.reader.recent_events(IDS[0], 50, NOW_US)
    assert shown is not None
    expected = [*range(CROWDED + 59, CROWDED + 39, -1), *range(CROWDED + 39, CROWDED + 9, -1)]
    assert [event["event_id"] for event in shown] == [f"e{offset}" for offset in expected]
    others = written.reader.recent_events(IDS[1], 50, NOW_US)
    assert others is not None
    assert [event["event_id"] for event in others] == [f"e{len(records) - 1 - place}" for place in range(5)]


def test_a_minute_keeps_few_events_of_a_crowded_content(written: Written, unique: str) -> None:
    written.write(0, *([Record(i, i)] for i in range(3 * CROWDED)))
    keys, start_s = keys_of(unique).partition(0), NOON_MS // 1000
    assert written.client.zcard(keys.crowded_recent(start_s, IDS[0])) == 50
    assert 0 < written.client.strlen(keys.recent(start_s, shard_of(IDS[0]))) < CROWDED * 60


def test_late_events_are_shown_among_the_recent_ones(written: Written) -> None:
    """An event 45 minutes late counts in no minute, but is not an hour old."""
    at = 9 * MINUTE
    written.write(0, [Record(at, at)], [Record(at - 45 * MINUTE, at)], [Record(at - 45 * MINUTE + 1, at)])
    shown = written.reader.recent_events(IDS[0], 50, NOW_US)
    assert shown is not None
    assert [event["event_id"] for event in shown] == ["e0", "e2", "e1"]
    assert shown[1]["event_ts"] == boards.iso((NOON_MS + at - 45 * MINUTE + 1) * 1000)
