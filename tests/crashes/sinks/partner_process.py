"""One life of the partner sink as a process, for tests/crashes/sinks/test_partner.py: real HTTP, real positions.

Arguments: one JSON object (see Life). It claims its partition, delivers the events that the sink still needs, settles
and exits 0; or it kills itself with SIGKILL at the given step. Steps are the moments before and after each Kafka
transaction and each request.
"""

import json
import os
import random
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from sinks.fenced_commit import FencedCommit
from sinks.partner import PartnerSink
from sinks.partner_client import PartnerClient, Patience
from sources.positions import PartitionId
from tests.fakes.partner_events import EventBatch, batch, body, values


@dataclass
class Life:
    """end  one past the last offset; kill_at: step of the SIGKILL, 0: none; seed: of the cuts between batches"""

    url: str
    kafka: dict[str, str]
    group: str
    topic: str
    topic_id: str
    letters: str
    end: int
    batch_size: int
    kill_at: int = 0
    seed: int = 0
    timeout_s: float = 2.0


def events(partition: PartitionId, since: int, until: int) -> EventBatch:
    """Offsets with gaps, as transaction markers leave them; some events are addressed to another sink."""
    present = [offset for offset in range(since, until) if offset % 11 != 4]
    return batch(
        since,
        until,
        present,
        partition=partition,
        targets={offset: "bigquery" for offset in present if offset % 9 == 5},
    )


def live(life: Life) -> None:
    step = 0

    def stepping(call: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*arguments: Any, **named: Any) -> Any:
            die_if_due()
            result = call(*arguments, **named)
            die_if_due()
            return result

        return stepped

    def die_if_due() -> None:
        nonlocal step
        step += 1
        if step == life.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))

    def stopping() -> bool:
        return bool(asked)

    def abandon() -> NoReturn:
        os._exit(0)

    def position(partition: PartitionId) -> FencedCommit:
        made = FencedCommit(life.kafka, life.group, "partner", partition, stopping=stopping, abandon=abandon)
        made.commit = stepping(made.commit)  # type: ignore[method-assign]
        return made

    client = PartnerClient(life.url, "secret", life.timeout_s)
    client.post = stepping(client.post)  # type: ignore[method-assign]
    sink = PartnerSink(
        life.url,
        "secret",
        batch_size=life.batch_size,
        timeout_s=life.timeout_s,
        values=values,
        body=body,
        position=position,
        dead_letters=life.letters,
        stopping=stopping,
        abandon=abandon,
        patience=Patience(wait_s=0.05, wait_s_max=0.2, jitter_s=0.05),
        client=client,
    )
    partition = PartitionId(life.topic, life.topic_id, 0)
    at = sink.claim(partition, "me").offset_next
    assert at is not None
    at = max(0, at - 3)  # another destination may need earlier offsets
    cut = random.Random(life.seed)
    while at < life.end and not asked:
        until = min(life.end, at + cut.randint(0, 15))
        sink.write([events(partition, at, until)])
        at = until
    sink.write([events(partition, at, at)])
    os._exit(0)


if __name__ == "__main__":
    live(Life(**json.loads(sys.argv[1])))
