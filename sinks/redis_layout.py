"""Where things lie in Redis: shared by the sink, which writes, and the API, which reads.

Every key of a Kafka partition carries the hash tag {group/topic/partition}: one slot of a Redis Cluster, one owner.

    {tag}:position                     hash   owner, next, topic_id, watermark_us, newest_ms, counters; never expires
    {tag}:contents                     hash   member -> JSON of the content's fields; renewed by each write
    {tag}:minute:START                 hash   member (content id) -> nine little-endian int64;
                                              '' -> two: events of all members, events too late
    {tag}:minute:START:scores          zset   member by score, the first 1000
    {tag}:minute:START:users/SHARD     string who was there, of the members of a shard, joined (engagement/shards.py)
    {tag}:minute:START:users:MEMBER    HyperLogLog of user numbers, where the minute is crowded. Users of a member: what
                                              is in either
    {tag}:minute:START:everybody       HyperLogLog of the users of all members
    {tag}:minute:START:recent/SHARD    string their events in that minute, joined
    {tag}:minute:START:recent:MEMBER   zset   such events by event time, the newest 50, where the minute is crowded
    {tag}:stragglers<LENGTH>:START...  hash, scores, users:MEMBER and everybody as of a minute: of a window's events too
                                              late for their minute, but not for the window
    {group/topic}:partitions           set    the Kafka partitions that are written; renewed hourly

A window is the sum of its minutes and its stragglers; events too late are counted with the latter. START is in seconds
since 1970, LENGTH in minutes. All keys but position expire.
"""

from dataclasses import dataclass
from struct import Struct

SCORES_MAX = 1000
RECENT_MAX = 50
CONTENTS_TTL_S = 7 * 86_400  # without a writer for a week, titles are forgotten; a start tells them all again
# Of a bucket as a whole: its events, and those too late for its window. No member has an empty name.
SUMMARY_FIELD = b""
SUMMARY = Struct("<qq")


@dataclass(frozen=True, slots=True)
class Group:
    """The totals of one consumer group for one topic, in windows of `window_minutes`."""

    group: str
    topic: str
    window_minutes: int

    @property
    def partitions(self) -> str:
        return f"{{{self.group}/{self.topic}}}:partitions"

    def partition(self, partition: int) -> "PartitionKeys":
        return PartitionKeys(f"{{{self.group}/{self.topic}/{partition}}}", self.window_minutes)

    @property
    def ttl_s(self) -> int:
        """Seconds: a minute is read until an hour after its window, and its first event may come five minutes early."""
        return 4200 + 60 * self.window_minutes


@dataclass(frozen=True, slots=True)
class PartitionKeys:
    """The keys of one Kafka partition."""

    tag: str
    window_minutes: int

    @property
    def position(self) -> str:
        return f"{self.tag}:position"

    @property
    def contents(self) -> str:
        return f"{self.tag}:contents"

    def totals(self, kind: str, start_s: int) -> str:
        bucket = f"stragglers{self.window_minutes}" if kind == "window" else "minute"
        return f"{self.tag}:{bucket}:{start_s}"

    def scores(self, kind: str, start_s: int) -> str:
        return f"{self.totals(kind, start_s)}:scores"

    @property
    def scratch(self) -> str:
        """Exists within a reader's script only."""
        return f"{self.tag}:scratch"

    def users(self, start_s: int, shard: str) -> str:
        return f"{self.totals('minute', start_s)}:users/{shard}"

    def crowded_users(self, kind: str, start_s: int, member: str) -> str:
        return f"{self.totals(kind, start_s)}:users:{member}"

    def everybody(self, kind: str, start_s: int) -> str:
        return f"{self.totals(kind, start_s)}:everybody"

    def recent(self, start_s: int, shard: str) -> str:
        return self.totals("minute", start_s) + recent_suffix(shard)

    def crowded_recent(self, start_s: int, member: str) -> str:
        return self.totals("minute", start_s) + crowded_suffix(member)


def recent_suffix(shard: str) -> str:
    """What follows the name of a minute's totals; scripts put it there, too."""
    return f":recent/{shard}"


def crowded_suffix(member: str) -> str:
    """Likewise."""
    return f":recent:{member}"
