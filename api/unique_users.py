"""How many users a content has in several minutes together, across Kafka partitions.

Exact where none of the minutes is crowded: the distinct numbers stored there. Else estimated, about 1 %: by a
HyperLogLog of those minutes together with the numbers of the others.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engagement.content_rows import shard_of, tag_of
from engagement.shards import users_of
from sinks.redis_layout import PartitionKeys

Pipelined = Callable[[Callable[[Any], list[Any]]], list[Any]]

# PFCOUNT takes no numbers, so they join the stored ones in a key that is gone when the script ends.
# KEYS[1] that key, then HyperLogLogs; ARGV numbers
TOGETHER = """
redis.call('DEL', KEYS[1])
redis.call('PFMERGE', unpack(KEYS))
for first = 1, #ARGV, 4000 do
  redis.call('PFADD', KEYS[1], unpack(ARGV, first, math.min(first + 3999, #ARGV)))
end
local users = redis.call('PFCOUNT', KEYS[1])
redis.call('DEL', KEYS[1])
return users
"""


def unique_users(
    pipelined: Pipelined, groups: Sequence[Sequence[PartitionKeys]], buckets: Sequence[tuple[str, int]], ids: list[str]
) -> list[int]:
    """Users of each content id in these minutes and windows (kind, start_s).

    groups  partitions whose keys one command may name: their users are united, those of different groups added up
    """

    def shared(keys: PartitionKeys) -> list[str]:
        return [keys.users(minute, shard) for minute in minutes for shard in shards]

    shards = [shard_of(content_id) for content_id in ids]
    tags = [tag_of(content_id) for content_id in ids]
    minutes = [start_s for kind, start_s in buckets if kind == "minute"]
    answers = iter(
        pipelined(
            lambda pipeline: [
                [pipeline.execute_command("MGET", *shared(keys)) for keys in group]
                + [pipeline.execute_command("PFCOUNT", *_crowded(group, buckets, content_id)) for content_id in ids]
                for group in groups
            ]
        )
    )
    counts = [0] * len(ids)
    mixed: list[tuple[int, Sequence[PartitionKeys], list[bytes]]] = []
    for group in groups:
        held = [next(answers) for _ in group]
        for place in range(len(ids)):
            strings = [string or b"" for answer in held for string in answer[place :: len(ids)]]
            numbers = np.unique(users_of(b"".join(strings), tags[place]))
            estimated = next(answers)
            if estimated and len(numbers):
                mixed.append((place, group, numbers.astype("<u4").view("V4").tolist()))
            else:
                counts[place] += estimated or len(numbers)
    for (place, _, _), users in zip(mixed, _together(pipelined, buckets, ids, mixed), strict=True):
        counts[place] += users
    return counts


def _together(
    pipelined: Pipelined,
    buckets: Sequence[tuple[str, int]],
    ids: list[str],
    mixed: list[tuple[int, Sequence[PartitionKeys], list[bytes]]],
) -> list[int]:
    def ask(pipeline: Any) -> list[Any]:
        for place, group, numbers in mixed:
            keys = [group[0].scratch, *_crowded(group, buckets, ids[place])]
            pipeline.execute_command("EVAL", TOGETHER, len(keys), *keys, *numbers)
        return []

    return pipelined(ask) if mixed else []


def _crowded(group: Sequence[PartitionKeys], buckets: Sequence[tuple[str, int]], content_id: str) -> list[str]:
    return [keys.crowded_users(*bucket, content_id) for keys in group for bucket in buckets]
