"""Redis as a destination: the totals of a Kafka partition, absolute, with the position behind them in one transaction.

What readers see is the state after an offset: a repeated write changes nothing, a writer that was replaced is refused,
and a Redis that has forgotten acknowledged writes is noticed at the next one. Waits without end while Redis is away.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

import metrics
from sinks.in_flight import Background
from sinks.redis_client import SINK, Waiting
from sinks.redis_layout import CONTENTS_TTL_S, SUMMARY, SUMMARY_FIELD, Group, PartitionKeys
from sinks.redis_write import JOINED_EVENTS_MAX, Update, Write, commands, joined
from sinks.repetition import give_up, never
from sources.positions import Claim, Fenced, FlowStopped, LostWrites, PartitionId, PositionGap, Span

REGISTER_S = 3600.0
UNDER_WAY_EVENTS_MAX = JOINED_EVENTS_MAX  # of one Kafka partition
POSITIONS = """
local found = {}
for place, key in ipairs(KEYS) do found[place] = redis.call('HMGET', key, 'owner', 'next') end
return found
"""
CLAIM = """
local known = redis.call('HMGET', KEYS[1], 'topic_id', 'next', 'newest_ms')
if known[1] and known[1] ~= ARGV[2] then return {known[1], known[2], known[3]} end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'topic_id', ARGV[2])
return {ARGV[2], known[2], known[3]}
"""


# What the stored position says to a write; gap, lost and fenced are refused.
Outcome = Literal["next", "landed", "gap", "lost", "fenced"]


@dataclass(frozen=True, slots=True)
class LoadedPeriod:
    """One bucket as stored; its fields are those of PeriodUpdate."""

    kind: str
    start_s: int
    members: list[str]
    values: bytes
    events: int
    late: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """What Redis holds of a partition; offset_next None: nothing."""

    offset_next: int | None
    watermark_us: int = 0
    newest_ms: int = -1
    counters: dict[str, int] = field(default_factory=dict)
    periods: list[LoadedPeriod] = field(default_factory=list)


class RedisSink(FixedPartitionedSink[Update, int]):
    """Absolute totals, each Update exactly once: they and the position are one transaction, which Redis drops where
    the position has changed since it was read, with the owner's token in it (WATCH, MULTI, EXEC).

    group           consumer group, part of every key
    partitions      the Kafka partitions of this process; the items' keys
    stored_periods  (watermark_us, newest_ms) -> the (kind, start_s) that `load` must read
    """

    name = SINK

    def __init__(
        self,
        url: str,
        *,
        group: str,
        partitions: Sequence[int],
        window_minutes: int,
        stored_periods: Callable[[int, int], Iterable[tuple[str, int]]],
        cluster_nodes: str | None = None,
        stopping: Callable[[], bool] = never,
        abandon: Callable[[], object] = give_up,
    ) -> None:
        self._redis = Waiting(url, cluster_nodes, stopping, abandon)
        self._clustered = bool(cluster_nodes)
        self._group, self._window_minutes = group, window_minutes
        self._parts = sorted(map(str, partitions))  # as the engine numbers them
        self._background = Background("redis-writes")
        self._waiting: deque[Update] = deque()
        self._failure: BaseException | None = None
        self._stored_periods = stored_periods
        self._registered: dict[PartitionId, float] = {}  # monotonic seconds
        self._acknowledged: dict[tuple[PartitionId, str], int | None] = {}

    @property
    def last_error(self) -> str:
        """What Redis is waited for, in words; empty while it answers."""
        return self._redis.last_error

    def list_parts(self) -> list[str]:
        """One part per Kafka partition of this process."""
        return self._parts

    def part_fn(self, item_key: str) -> int:
        """The key is the Kafka partition."""
        return self._parts.index(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> "RedisPart":
        """What was written is known to Redis: there is nothing to resume."""
        return RedisPart(self)

    def begin(self, updates: Sequence[Update]) -> "Future[None]":
        """As `write`, beside the caller: acknowledged when the result is there. What it raises comes with the result.

        Redis and this process work at the same time: 1.4 times the events per second. All that came while a write was
        under way goes into the next one, so writes are small in light traffic and cheap per event in heavy."""
        self._waiting.extend(updates)
        return self._background.begin(self._write_waiting)

    def _write_waiting(self) -> None:
        if self._failure is not None:  # it took with it what the later calls were to write
            raise self._failure
        updates = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            self.write(updates)
        except BaseException as failure:
            self._failure = failure
            raise

    def layout(self, topic: str) -> Group:
        """The keys of a topic."""
        return Group(self._group, topic, self._window_minutes)

    def claim(self, partition: PartitionId, owner: str) -> Claim:
        """Take the partition over: from now on Redis refuses every other writer. Waits while Redis is away.

        Raises FlowStopped where Redis may evict keys, or holds totals of another topic id."""
        layout = self.layout(partition.topic)
        keys = layout.partition(partition.partition)
        self._redis.call("check its eviction policy", _refuse_eviction)
        topic_id, stored, newest = self._redis.call(
            f"claim partition {partition.partition} of {partition.topic}",
            lambda client: client.eval(CLAIM, 1, keys.position, owner, partition.topic_id),
        )
        if topic_id.decode() != partition.topic_id:
            raise FlowStopped(
                f"Redis holds totals of another incarnation of topic {partition.topic} (topic id {topic_id.decode()}, "
                f"now {partition.topic_id}): it was recreated. To begin anew, delete the keys of its partitions: "
                f"redis-cli --scan --pattern '{keys.tag}*' | xargs redis-cli del"
            )
        self._register(partition)
        offset_next = None if stored is None else int(stored)
        self._acknowledged[partition, owner] = offset_next
        return Claim(offset_next, newest_ms=None if newest is None else int(newest))

    def _register(self, partition: PartitionId) -> None:
        """Tell readers that this partition is written."""
        key = self.layout(partition.topic).partitions

        def register(client: Any) -> None:
            client.sadd(key, partition.partition)
            client.expire(key, CONTENTS_TTL_S)

        self._redis.call("register a partition", register)
        self._registered[partition] = time.monotonic()

    def load(self, span: Span) -> Loaded:
        """What Redis holds of the span's partition: position, counters, and the buckets still needed.

        Raises LostWrites where it holds less than when the partition was claimed, which is where batches begin."""
        keys = self.layout(span.partition.topic).partition(span.partition.partition)
        loaded = self._redis.call("load the open totals", lambda client: self._load(client, keys))
        acknowledged = self._acknowledged.get((span.partition, span.owner))
        if acknowledged is not None and (loaded.offset_next is None or loaded.offset_next < acknowledged):
            raise self._lost(span)
        return loaded

    def write(self, updates: Sequence[Update]) -> None:
        """Write updates, each partition's in offset order; when it returns, Redis has acknowledged them."""
        for writes in self._transactions(joined(updates, self._acknowledged)):
            outcomes = self._redis.call("write totals", partial(self._write, writes))
            for write, (outcome, stored) in zip(writes, outcomes, strict=True):
                self._settle(write, outcome, stored)
                if time.monotonic() - self._registered.get(write.span.partition, 0.0) > REGISTER_S:
                    self._register(write.span.partition)

    def _transactions(self, writes: Iterable[Write]) -> Iterator[list[Write]]:
        """Those of several partitions together as long as they are small, so that light traffic waits for one round of
        answers. A cluster's transaction has the keys of one partition."""
        together: list[Write] = []
        for write in writes:
            fits = sum(each.events for each in together) + write.events <= JOINED_EVENTS_MAX
            apart = write.span.partition in (each.span.partition for each in together)
            if together and (self._clustered or apart or not fits):
                yield together
                together = []
            together.append(write)
        if together:
            yield together

    def _write(self, writes: Sequence[Write], client: Any) -> list[tuple[Outcome, int]]:
        """Of each write the outcome, and the position before it. A connection that is lost in between raises, and all
        is asked anew: a transaction that Redis took before that has landed."""
        layouts = [self.layout(write.span.partition.topic) for write in writes]
        keys = [
            layout.partition(write.span.partition.partition).position
            for layout, write in zip(layouts, writes, strict=True)
        ]
        outcomes: list[tuple[Outcome, int]] = []
        with client.pipeline(transaction=True) as pipeline:
            pipeline.watch(*keys)
            positions = pipeline.execute_command("EVAL", POSITIONS, len(keys), *keys)
            pipeline.multi()
            for write, layout, (owner, stored) in zip(writes, layouts, positions, strict=True):
                offset = None if stored is None else int(stored)
                outcome = self._outcome(write.span, owner, offset)
                outcomes.append((outcome, -1 if offset is None else offset))
                if outcome in ("next", "landed"):
                    for command in commands(write, layout, landed=outcome == "landed"):
                        pipeline.execute_command(*command)
            if len(pipeline):
                pipeline.execute()
        return outcomes

    def _outcome(self, span: Span, owner: bytes | None, stored: int | None) -> Outcome:
        """What Redis says to a write of this span. A position that is absent is a first write."""
        acknowledged = self._acknowledged.get((span.partition, span.owner))
        if owner is None or (acknowledged is not None and (stored is None or stored < acknowledged)):
            return "lost"
        if owner.decode() != span.owner:
            return "fenced"
        if stored is not None:
            if stored > span.offset_next or (stored == span.offset_next and span.offset_from < span.offset_next):
                return "landed"
            if span.offset_from > stored:
                return "gap"
        return "next"

    def _settle(self, write: Write, outcome: Outcome, stored: int) -> None:
        span = write.span
        where = f"partition {span.partition.partition} of topic {span.partition.topic}"
        if outcome == "lost":
            raise self._lost(span)
        if outcome == "fenced":
            raise Fenced(
                f"Another process has taken over {where} in Redis: this one ends. Run one process per partition."
            )
        if outcome == "gap":
            raise PositionGap(
                f"Redis needs offset {stored} of {where} next, and an update begins at {span.offset_from}: the totals "
                "between are missing. Remove the recovery directory and start again."
            )
        self._acknowledged[span.partition, span.owner] = max(stored, span.offset_next)
        metrics.SINK_EVENTS.labels(SINK).inc(write.events)
        if write.events:
            newest_ms = write.updates[-1].newest_ms
            metrics.LATENCY.labels(SINK).observe(max(0.0, time.time() - newest_ms / 1000))

    @staticmethod
    def _lost(span: Span) -> LostWrites:
        return LostWrites(
            f"Redis has forgotten acknowledged totals of partition {span.partition.partition} of topic "
            f"{span.partition.topic} (it was flushed, restored from an older copy, or failed over to a replica behind):"
            " the flow starts again and counts on from what Redis still holds."
        )

    def _load(self, client: Any, keys: PartitionKeys) -> Loaded:
        position = {name.decode(): value for name, value in client.hgetall(keys.position).items()}
        if "next" not in position:
            return Loaded(None)
        if "watermark_us" not in position:  # set by hand, nothing written since
            return Loaded(int(position["next"]))
        watermark_us, newest_ms = int(position["watermark_us"]), int(position["newest_ms"])
        buckets = list(self._stored_periods(watermark_us, newest_ms))
        pipeline = client.pipeline(transaction=False)
        for kind, start_s in buckets:
            pipeline.hgetall(keys.totals(kind, start_s))
        periods = []
        for (kind, start_s), rows in zip(buckets, pipeline.execute(), strict=True):
            if rows:
                events, late = SUMMARY.unpack(rows.pop(SUMMARY_FIELD))
                members = [member.decode() for member in rows]
                periods.append(LoadedPeriod(kind, start_s, members, b"".join(rows.values()), events, late))
        counters = {
            name.removeprefix("total_"): int(value) for name, value in position.items() if name.startswith("total_")
        }
        return Loaded(int(position["next"]), watermark_us, newest_ms, counters, periods)


class RedisPart(StatefulSinkPartition[Update, int]):
    """One Kafka partition's end of the sink: writes are under way while the next batches are parsed.

    They are settled in `snapshot`, so no snapshot covers what Redis has not acknowledged, and as soon as there are too
    many, so that a slow Redis holds the flow up before its memory fills.
    """

    def __init__(self, sink: RedisSink) -> None:
        self._sink = sink
        self._under_way: deque[tuple[Future[None], int]] = deque()
        self._events = 0

    def write_batch(self, values: list[Update]) -> None:
        events = sum(map(len, values))
        self._under_way.append((self._sink.begin(values), events))
        self._events += events
        while self._under_way and (self._under_way[0][0].done() or self._events > UNDER_WAY_EVENTS_MAX):
            self._settle_first()

    def snapshot(self) -> int:
        self._settle()
        return 0  # the position lies in Redis

    def close(self) -> None:
        self._settle()

    def _settle(self) -> None:
        while self._under_way:
            self._settle_first()

    def _settle_first(self) -> None:
        write, events = self._under_way.popleft()
        self._events -= events
        write.result()


def _refuse_eviction(client: Any) -> None:
    info = client.info("memory")
    policies = {"": info} if "maxmemory_policy" in info else info
    for node, memory in policies.items():
        policy = memory["maxmemory_policy"]
        if policy != "noeviction":
            raise FlowStopped(
                f"Redis {node} would drop totals when memory runs short: its maxmemory-policy is {policy}. "
                "Set it to noeviction: redis-cli config set maxmemory-policy noeviction"
            )
