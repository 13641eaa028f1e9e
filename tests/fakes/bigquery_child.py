"""A process that writes Kafka partitions to the fake BigQuery, to be killed and frozen:

    python -m tests.fakes.bigquery_child ADDRESS OWNER PARTITIONS END [FREEZE]

It claims PARTITIONS ("0,2"), reads from their positions to offset END in batches of seven. FREEZE
names a step after which it stops itself with SIGSTOP, once: create, register, landed. Ends with 3 when fenced.
"""

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from sinks.bigquery import BigQuerySink
from sinks.fenced_commit import Committed, DeadLetterRecord
from sources.positions import Fenced, PartitionId
from tests.fakes.bigquery_events import abandon, arrow_rows, batch, day_of, partition_id
from tests.fakes.bigquery_write import FakeBigQuery, Remote
from tests.fakes.positions import FakeBroker, FakeFencedCommit

FENCED = 3
BATCH = 7


class PositionService:
    """On the server's side: fenced positions for other processes, by token."""

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker
        self._opened: dict[str, FakeFencedCommit] = {}

    def open(self, token: str, partition: PartitionId) -> Committed:
        self._opened[token] = FakeFencedCommit(self._broker, partition)
        return self._opened[token].open()

    def commit(self, token: str, *arguments: Any) -> None:
        self._opened[token].commit(*arguments)

    def renew(self, token: str, now: float) -> None:
        self._opened[token].renew(now)


class RemotePosition:
    """On the child's side."""

    def __init__(self, address: str, owner: str, partition: PartitionId) -> None:
        self._remote, self._partition = Remote(address, "position"), partition
        self._token = f"{owner}/{partition.partition}"

    def open(self) -> Committed:
        return self._remote.open(self._token, self._partition)  # type: ignore[no-any-return]

    def commit(
        self, offset_next: int, extra: str = "", letters: Sequence[DeadLetterRecord] = (), topic: str | None = None
    ) -> None:
        self._remote.commit(self._token, offset_next, extra, letters, topic)

    def renew(self, now: float) -> None:
        self._remote.renew(self._token, now)

    def close(self) -> None:
        pass


class Freezing:
    """An object whose method `at` stops this process, once, when it is through."""

    def __init__(self, inner: Any, at: str) -> None:
        self._inner, self._at = inner, at

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name != self._at:
            return found

        def freezing(*arguments: Any, **named: Any) -> Any:
            answer = found(*arguments, **named)
            self._at = ""
            os.kill(os.getpid(), signal.SIGSTOP)
            return answer

        return freezing


def main(address: str, owner: str, partitions: str, end: str, freeze: str = "") -> int:
    server = FakeBigQuery()
    server.address = address
    sink = BigQuerySink(
        server.table,
        rows=arrow_rows,
        day_of=day_of,
        position=lambda partition: RemotePosition(address, owner, partition),
        dead_letters="dead",
        stopping=lambda: False,
        abandon=abandon,
        ledger=Freezing(Remote(address, "ledger"), freeze),
        writer=Freezing(server.table.write_client(), {"create": "create_write_stream"}.get(freeze, "")),
        wait_seconds_max=0.05,
        ack_seconds=1,
    )
    last = int(end)
    claimed = [partition_id(int(number)) for number in partitions.split(",")]
    at = {partition: sink.claim(partition, owner).offset_next or 0 for partition in claimed}
    try:
        while any(offset < last for offset in at.values()):
            items = []
            for partition, offset in at.items():
                at[partition] = min(offset + BATCH, last)
                items.append(batch(offset, at[partition], partition=partition, owner=owner))
            sink.write(items)
        sink.write([batch(last, last, partition=partition, owner=owner) for partition in claimed])
    except Fenced as fenced:
        sys.stderr.write(f"{fenced}\n")
        return FENCED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
