"""kill -9 around each step of the partner sink: every repeated request goes out under its old key with its old body,
and the partner's store holds each event once."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from tests.fakes.partner_events import event_id
from tests.fakes.partner_server import Receiver, ReceiverProcess, receiver_thread

PROCESS = Path(__file__).parent / "partner_process.py"
END = 60
TAKEN = [offset for offset in range(END) if offset % 11 != 4 and offset % 9 != 5]
WRONG = [12, 13, 31]


class Scene:
    """A topic with a first position, a receiver, and the lives of a sink between them."""

    def __init__(self, kafka: Any, group: str, receiver: Receiver) -> None:
        self.kafka, self.group, self.receiver = kafka, group, receiver
        self.topic = kafka.topic(partitions=1)
        self.topic_id = kafka.topic_id(self.topic)
        self.letters = kafka.topic(partitions=1)
        consumer = self.consumer(f"{group}.partner")
        first = TopicPartition(self.topic, 0, 0, json.dumps({"topic_id": self.topic_id, "at": 1000}))
        consumer.commit(offsets=[first], asynchronous=False)
        consumer.close()

    def start(self, **life: Any) -> "subprocess.Popen[bytes]":
        arguments = {
            "url": self.receiver.url,
            "kafka": self.kafka.properties,
            "group": self.group,
            "topic": self.topic,
            "topic_id": self.topic_id,
            "letters": self.letters,
            "end": END,
            "batch_size": 7,
            **life,
        }
        return subprocess.Popen([sys.executable, str(PROCESS), json.dumps(arguments)], stderr=subprocess.PIPE)

    def live(self, **life: Any) -> int:
        """Exit status of a whole life; its words are shown where it is neither clean nor killed."""
        child = self.start(**life)
        _, words = child.communicate(timeout=60)
        assert child.returncode in (0, -signal.SIGKILL), words.decode()
        return child.returncode

    def consumer(self, group: str) -> Consumer:
        return Consumer(
            {**self.kafka.properties, "group.id": group, "enable.auto.commit": False, "enable.partition.eof": True}
        )

    def dead_letters(self) -> list[int]:
        """Offsets that became dead letters, as a read_committed reader sees them."""
        consumer = self.consumer("reader")
        consumer.assign([TopicPartition(self.letters, 0, 0)])
        offsets = []
        while (message := consumer.poll(10)) is not None and message.error() is None:
            offsets.append(int(dict(message.headers())["offset"]))
        assert message is not None
        assert message.error().code() == KafkaError._PARTITION_EOF
        consumer.close()
        return offsets

    def position(self) -> int:
        consumer = self.consumer(f"{self.group}.partner")
        offset: int = consumer.committed([TopicPartition(self.topic, 0)], timeout=10)[0].offset
        consumer.close()
        return offset

    def check(self, wrong: list[int]) -> None:
        """Each event in exactly one of two places; each key always with the same body."""
        assert self.receiver.effects() == [event_id(0, offset) for offset in TAKEN if offset not in wrong]
        assert self.dead_letters() == wrong
        assert self.position() == END
        bodies: dict[str, set[str]] = {}
        for key, body, _ in self.receiver.requests():
            bodies.setdefault(key, set()).add(body)
        assert all(len(seen) == 1 for seen in bodies.values())


@pytest.fixture
def scene(kafka: Any, unique: str, tmp_path: Path) -> Iterator[Scene]:
    with receiver_thread(tmp_path / "partner.sqlite3") as receiver:
        yield Scene(kafka, unique, receiver)


def test_a_kill_around_each_step_of_the_first_request_repeats_it_as_it_was(scene: Scene) -> None:
    """Steps: 1 before and 2 after the transaction, 3 before and 4 after the request."""
    for kill_at in (1, 2, 3, 4):
        assert scene.live(kill_at=kill_at, batch_size=3 + kill_at, seed=kill_at) == -signal.SIGKILL
    assert scene.live(seed=9) == 0
    scene.check(wrong=[])
    requests = scene.receiver.requests()
    assert requests[0][:2] == requests[1][:2], "sent, not acknowledged: the next life repeats key and body"


def test_a_chain_of_kills_at_later_and_later_steps_changes_nothing(scene: Scene) -> None:
    """Each life dies one step later than the one before, with splits and dead letters on the way."""
    scene.receiver.behave(refusals={event_id(0, offset): 422 for offset in WRONG})
    for kill_at in range(3, 30):
        if scene.live(kill_at=kill_at, seed=kill_at, batch_size=(7, 3, 500)[kill_at % 3]) == 0:
            break
    else:
        raise AssertionError("it never came to the end")
    assert kill_at > 8, "enough lives to mean something"
    scene.check(WRONG)
    requests = scene.receiver.requests()
    assert len(requests) > len({key for key, _, _ in requests}), "at least one request was repeated"


def test_a_partner_that_dies_in_between_gets_each_event_once(
    kafka: Any, unique: str, tmp_path: Path, wait_for: Callable[..., Any]
) -> None:
    receiver = ReceiverProcess(tmp_path / "partner.sqlite3")
    receiver.start()
    try:
        wait_for(receiver.alive, timeout=30, message="the receiver")
        receiver.behave(delay_s=0.1)
        scene = Scene(kafka, unique, receiver)
        child = scene.start(batch_size=3)
        wait_for(lambda: len(receiver.effects()) > 5, timeout=30, message="the first events")
        receiver.kill()
        receiver.start()
        _, words = child.communicate(timeout=60)
        assert child.returncode == 0, words.decode()
        scene.check(wrong=[])
    finally:
        receiver.kill()


def test_sigterm_with_the_partner_down_exits_0_and_the_next_start_goes_on(
    scene: Scene, wait_for: Callable[..., Any]
) -> None:
    scene.live(end=20)
    scene.receiver.behave(status=503)
    child = scene.start()
    wait_for(lambda: any(row[2] == 503 for row in scene.receiver.requests()), timeout=30, message="a failed try")
    child.terminate()
    assert child.wait(30) == 0
    assert child.stderr is not None
    child.stderr.close()
    before = len(scene.receiver.requests())
    scene.receiver.behave()
    assert scene.live() == 0
    scene.check(wrong=[])
    acknowledged = {key for key, _, status in scene.receiver.requests()[:before] if status == 200}
    assert not acknowledged & {key for key, _, _ in scene.receiver.requests()[before:]}


def test_an_older_process_that_wakes_up_is_fenced_and_doubles_nothing(
    scene: Scene, wait_for: Callable[..., Any]
) -> None:
    scene.receiver.behave(delay_s=0.05)
    older = scene.start(batch_size=2)
    wait_for(lambda: len(scene.receiver.effects()) > 4, timeout=30, message="the first events")
    older.send_signal(signal.SIGSTOP)
    assert scene.live() == 0
    older.send_signal(signal.SIGCONT)
    _, words = older.communicate(timeout=30)
    assert older.returncode == 1
    assert b"Fenced" in words
    scene.check(wrong=[])
