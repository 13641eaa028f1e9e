"""How many users a content has in several minutes together, across Kafka partitions.

Exact where none of the minutes is crowded: the distinct numbers stored there. Else estimated, about 1 %: by a
HyperLogLog of those minutes together with the numbers of the others.
"""

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from api.questions import Question
from engagement.content_rows import tag_of, user_shard_of
from engagement.shards import users_of
from sinks.redis_layout import PartitionKeys

# PFCOUNT takes no numbers, so they join the stored ones in a key that is gone when the script ends. Neither replicas
# nor the append-only file hear of it: they would get half a megabyte for each board.
# KEYS[1] that key, then HyperLogLogs; ARGV[1] numbers of four bytes, joined: an argument each would cost the client
# two milliseconds for ten contents.
TOGETHER = """
redis.set_repl(redis.REPL_NONE)
redis.call('DEL', KEYS[1])
redis.call('PFMERGE', unpack(KEYS))
local numbers = {}
for first = 1, #ARGV[1], 4 do
  numbers[#numbers + 1] = string.sub(ARGV[1], first, first + 3)
end
for first = 1, #numbers, 4000 do
  redis.call('PFADD', KEYS[1], unpack(numbers, first, math.min(first + 3999, #numbers)))
end
local users = redis.call('PFCOUNT', KEYS[1])
redis.call('DEL', KEYS[1])
return users
"""

Keys = Sequence[PartitionKeys]

KEPT_MAX = 10_000


class KeptUsers:
    """Users of contents that were counted a moment ago: they are the dearest that a board asks for (60 KB for each of
    the first contents, and half a millisecond of Redis where minutes are crowded), and boards are computed four times a
    second.

    kept_s  0: none is kept"""

    def __init__(self, kept_s: float) -> None:
        self._kept_s = kept_s
        self._held: dict[Hashable, tuple[float, int]] = {}  # (what of, content id) -> monotonic seconds, users

    def get(self, key: Hashable) -> int | None:
        at, users = self._held.get(key, (float("-inf"), 0))
        return users if time.monotonic() - at < self._kept_s else None

    def keep(self, key: Hashable, users: int) -> None:
        if len(self._held) >= KEPT_MAX:
            self._held.clear()
        self._held[key] = time.monotonic(), users


@dataclass(slots=True)
class UniqueUsers:
    """The users of each content id in these minutes and windows (kind, start_s). `counts` is right once `stored` was
    asked, and `together` where something is `mixed`.

    homes   of each id the partitions that may have users of it, in groups whose keys one command may name: the users
            of a group are united, those of different groups added up
    kept    what was counted a moment ago, and is not asked for again
    """

    buckets: tuple[tuple[str, int], ...]
    ids: list[str]
    homes: Sequence[Sequence[Keys]]
    kept: KeptUsers
    counts: list[int] = field(init=False)
    # of contents with crowded and other minutes: place, group, the numbers in the others
    mixed: list[tuple[int, Keys, bytes]] = field(default_factory=list)
    asked: list[tuple[int, Keys]] = field(init=False)  # place, group
    _members: dict[PartitionKeys, list[int]] = field(init=False)  # the places of those that a partition may have

    def __post_init__(self) -> None:
        self.counts = [0] * len(self.ids)
        self.asked, self._members = [], {}
        for place, groups in enumerate(self.homes):
            for group in filter(None, groups):
                if (kept := self.kept.get(self._key(place, group))) is not None:
                    self.counts[place] += kept
                    continue
                self.asked.append((place, group))
                for keys in group:
                    self._members.setdefault(keys, []).append(place)

    def stored(self) -> Question[None]:
        """Numbers and HyperLogLogs, each for itself."""
        shards = [user_shard_of(content_id) for content_id in self.ids]
        minutes = [start_s for kind, start_s in self.buckets if kind == "minute"]

        def put(pipeline: Any) -> None:
            for keys, places in self._members.items():
                begins = [keys.users(minute, "") for minute in minutes]
                pipeline.execute_command("MGET", *[begin + shards[place] for begin in begins for place in places])
            for place, group in self.asked:
                pipeline.execute_command("PFCOUNT", *self._crowded(group, self.ids[place]))

        return Question(put, self._count)

    def together(self) -> Question[None]:
        """Both united, where a content has both."""

        def put(pipeline: Any) -> None:
            for place, group, numbers in self.mixed:
                keys = [group[0].scratch, *self._crowded(group, self.ids[place])]
                pipeline.execute_command("EVAL", TOGETHER, len(keys), *keys, numbers)

        def read(answers: list[Any]) -> None:
            for (place, group, _), users in zip(self.mixed, answers, strict=True):
                self._add(place, group, users)

        return Question(put, read)

    def _count(self, answers: list[Any]) -> None:
        left = iter(answers)
        strings: dict[tuple[int, PartitionKeys], list[bytes]] = {}
        for keys, places in self._members.items():
            answer = next(left)
            for at, place in enumerate(places):
                strings[place, keys] = [string for string in answer[at :: len(places)] if string]
        for place, group in self.asked:
            held = [string for keys in group for string in strings[place, keys]]
            numbers = np.unique(users_of(b"".join(held), tag_of(self.ids[place])))
            estimated = next(left)
            if estimated and len(numbers):
                self.mixed.append((place, group, numbers.astype("<u4").tobytes()))
            else:
                self._add(place, group, estimated or len(numbers))

    def _add(self, place: int, group: Keys, users: int) -> None:
        self.counts[place] += users
        self.kept.keep(self._key(place, group), users)

    def _key(self, place: int, group: Keys) -> Hashable:
        return self.buckets, tuple(group), self.ids[place]

    def _crowded(self, group: Keys, content_id: str) -> list[str]:
        return [keys.crowded_users(*bucket, "") + content_id for keys in group for bucket in self.buckets]
