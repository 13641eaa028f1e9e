"""Dead letters as an operator handles them: the command on the real broker, against letters that sinks wrote."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, Producer

from engagement.parse import parse
from operations.letters import Letter, replay_of
from sinks.fenced_commit import dead_letter
from sources.passed_by_hand import PassedByHand
from sources.positions import PartitionId

ROOT = Path(__file__).parents[3]
ARRIVED_MS = 1_754_836_225_000  # 2025-08-10T14:30:25Z
GOOD = {"id": 7, "content_id": None, "event_type": "play", "event_ts": "2025-08-10T14:30:20Z"}
BAD = {**GOOD, "event_type": "dance"}


class Place:
    """One installation's topics, with letters in them."""

    def __init__(self, kafka, name: str) -> None:
        self.kafka, self.group = kafka, name
        self.topic = kafka.topic(partitions=2, name=f"{name}-events")
        self.letters = kafka.topic(partitions=2, name=f"{name}-letters")
        self.positions = kafka.topic(partitions=1, name=f"{name}-events.positions", cleanup_policy="compact")

    def letter(self, offset: int, value: bytes, *, key: bytes | None = b"k", partition: int = 0, **facts) -> None:
        """As a sink writes it, except that the test chooses its partition."""
        self.write([(offset, value)], key=key, partition=partition, **facts)

    def write(self, events: list[tuple[int, bytes]], key: bytes | None = b"k", partition: int = 0, **facts) -> None:
        producer = Producer({**self.kafka.properties, "transactional.id": f"{self.letters}-test"})
        producer.init_transactions(20)
        producer.begin_transaction()
        facts = {"reason": "wrong_event_type", "sink": "parse", "topic": self.topic, **facts}
        for offset, value in events:
            letter = dead_letter(
                key,
                value,
                detail="what to fix",
                partition=1,
                offset=offset,
                **{"rejected_at_ms": ARRIVED_MS + 1000, "kafka_timestamp_ms": ARRIVED_MS, **facts},
            )
            producer.produce(self.letters, letter.value, letter.key, partition=partition, headers=letter.headers)
        producer.commit_transaction(20)

    def environment(self, **more: str) -> dict[str, str]:
        return {
            **{name: os.environ[name] for name in os.environ if name.startswith(("PATH", "HOME", "COVERAGE"))},
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap,
            "KAFKA_TOPIC_ENGAGEMENT_EVENTS": self.topic,
            "KAFKA_TOPIC_DEAD_LETTERS": self.letters,
            "KAFKA_CONSUMER_GROUP": self.group,
            **more,
        }

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "operations.dead_letters", *arguments],
            cwd=ROOT,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def done(self, *arguments: str, **environment: str) -> str:
        done = self.run(*arguments, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def events(self) -> list[tuple[bytes | None, bytes | None, dict[str, bytes | None]]]:
        """(key, value, headers) of what a flow would read from the topic."""
        consumer = Consumer({**self.kafka.properties, "group.id": "reader", "enable.partition.eof": True})
        from confluent_kafka import TopicPartition

        consumer.assign([TopicPartition(self.topic, number, 0) for number in range(2)])
        found, ends = [], 0
        while ends < 2:
            message = consumer.poll(10)
            assert message is not None
            if message.error() is None:
                found.append((message.key(), message.value(), dict(message.headers() or ())))
            else:
                assert message.error().code() == KafkaError._PARTITION_EOF
                ends += 1
        consumer.close()
        return found


@pytest.fixture
def place(kafka, unique) -> Place:
    return Place(kafka, unique)


def encoded(event: dict[str, object]) -> bytes:
    return json.dumps(event).encode()


def test_a_parse_letter_goes_back_plain_with_its_own_key_bytes_and_timestamp(place) -> None:
    place.letter(41, encoded(GOOD), key=None)

    assert "replayed 1 letters" in place.done("replay", "--all")

    assert place.events() == [(None, encoded(GOOD), {"event_id": b"7", "kafka_timestamp": b"1754836225000"})]


def test_an_event_without_id_keeps_the_id_that_its_first_offset_gave_it(place) -> None:
    place.letter(41, encoded({key: value for key, value in GOOD.items() if key != "id"}))

    place.done("replay", "--all")

    [(_, _, headers)] = place.events()
    assert headers["event_id"] == f"kafka:{place.topic}-1-41".encode()


def test_the_letter_of_a_sink_goes_back_for_that_sink_alone(place) -> None:
    place.letter(41, encoded(GOOD), sink="partner", reason="status_422", event_id="7")

    place.done("replay", "--sink", "partner")

    [(_, _, headers)] = place.events()
    assert headers == {"for": b"partner", "event_id": b"7", "kafka_timestamp": b"1754836225000"}


def test_a_second_replay_delivers_nothing(place) -> None:
    place.letter(41, encoded(GOOD))
    place.done("replay", "--all")

    second = place.done("replay", "--all")

    assert "replayed 0 letters" in second
    assert "left 1 letters that were replayed before" in second
    assert len(place.events()) == 1


def test_a_dry_run_says_what_it_would_do_and_does_nothing(place) -> None:
    place.letter(41, encoded(GOOD))

    assert "would replay 1 letters" in place.done("replay", "--all", "--dry-run")

    assert place.events() == []
    assert "replayed 1 letters" in place.done("replay", "--all")


def test_what_parse_would_reject_again_is_left_and_the_way_out_is_named(place) -> None:
    place.letter(41, encoded(BAD))

    left = place.done("replay", "--all")

    assert "replayed 0 letters" in left
    assert "python -m operations.dead_letters edit 0 0" in left
    assert place.events() == []
    assert "replayed 1 letters" in place.done("replay", "--all", "--rejected-too")


def test_a_letter_is_corrected_and_replayed_in_one_go(place, tmp_path) -> None:
    place.letter(41, encoded(BAD))
    payload = tmp_path / "corrected.json"
    payload.write_bytes(encoded(GOOD) + b"\n")

    place.done("edit", "0", "0", "--payload", str(payload))

    assert place.events() == [(b"k", encoded(GOOD), {"event_id": b"7", "kafka_timestamp": b"1754836225000"})]
    again = place.run("edit", "0", "0", "--payload", str(payload))
    assert again.returncode == 1
    assert "replayed before" in again.stderr


def test_a_correction_that_parse_would_reject_is_refused_with_the_reason(place, tmp_path) -> None:
    place.letter(41, encoded(GOOD), sink="partner", event_id="7")
    payload = tmp_path / "worse.json"
    payload.write_bytes(encoded(BAD))

    refused = place.run("edit", "0", "0", "--payload", str(payload))

    assert refused.returncode == 1
    assert "event_type" in refused.stderr
    assert place.events() == []


def test_the_editor_of_the_operator_opens(place) -> None:
    place.letter(41, encoded(BAD))

    place.done("edit", "0", "0", EDITOR="sed -i s/dance/click/", VISUAL="")

    [(_, value, _)] = place.events()
    assert json.loads(value)["event_type"] == "click"


def test_the_list_counts_by_reason_and_filters(place) -> None:
    place.letter(1, encoded(BAD))
    place.letter(2, encoded(BAD), partition=1, rejected_at_ms=ARRIVED_MS + 3_600_000)
    place.letter(3, encoded(GOOD), sink="partner", reason="status_422", event_id="7")
    place.done("replay", "--sink", "partner")

    counts = [line.split() for line in place.done("list", "--limit", "0").splitlines()]
    assert sorted(counts[1:3]) == [["parse", "wrong_event_type", "2", "0"], ["partner", "status_422", "1", "1"]]
    assert counts[3] == ["all", "3", "1"]

    assert "all" + " " * 41 + "        1" in place.done("list", "--sink", "partner")
    early = place.done("list", "--until", "2025-08-10T15:00Z", "--reason", "wrong_event_type")
    assert f"{place.topic}/1/1 " in early
    assert f"{place.topic}/1/2 " not in early
    late = place.done("list", "--since", "2025-08-10T15:00Z")
    assert f"{place.topic}/1/2 " in late
    assert "2025-08-10T15:30:26.000Z" not in late
    assert "2025-08-10T15:30:25" in late


def test_a_letter_is_shown_whole_and_bytes_that_are_no_text_too(place) -> None:
    place.letter(1, b"\xff\xfe", reason="not_utf8")

    shown = place.done("show", "0", "0")

    assert "not_utf8" in shown
    assert r"b'\xff\xfe'" in shown
    missing = place.run("show", "0", "99")
    assert missing.returncode == 1
    assert "no dead letter 0/99" in missing.stderr


def test_a_replay_must_be_told_which_letters(place) -> None:
    assert place.run("replay").returncode == 2
    assert place.run("replay", "--id", "nonsense").returncode == 2


def test_chosen_letters_are_replayed_and_no_others(place) -> None:
    for offset in range(3):
        place.letter(offset, encoded({**GOOD, "id": offset}))

    place.done("replay", "--id", "0/2")  # a letter and a marker each

    assert [headers["event_id"] for _, _, headers in place.events()] == [b"1"]


def test_kill_in_the_middle_of_a_replay_then_again_delivers_each_once(place, wait_for) -> None:
    numbers = range(6000)
    place.write([(number, encoded({**GOOD, "id": number})) for number in numbers])
    command = [sys.executable, "-m", "operations.dead_letters", "replay", "--all"]
    with subprocess.Popen(command, cwd=ROOT, env=place.environment(), stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        assert any("so far" in line for line in running.stderr)  # the first transaction is committed
        running.send_signal(signal.SIGKILL)
    delivered = len(place.events())
    assert delivered > 0

    rest = place.done("replay", "--all")

    assert f"replayed {6000 - delivered} letters" in rest
    found = Counter(headers["event_id"] for _, _, headers in place.events())
    assert found == Counter(str(number).encode() for number in numbers)


def test_two_replays_at_once_deliver_each_letter_once(place) -> None:
    numbers = range(3000)
    place.write([(number, encoded({**GOOD, "id": number})) for number in numbers])
    command = [sys.executable, "-m", "operations.dead_letters", "replay", "--all"]
    both = [
        subprocess.Popen(command, cwd=ROOT, env=place.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    ended = [(running.communicate(timeout=90), running.returncode) for running in both]

    assert 0 in [code for _, code in ended], ended
    found = Counter(headers["event_id"] for _, _, headers in place.events())
    assert found == Counter(str(number).encode() for number in numbers)


def test_what_is_passed_by_hand_reaches_the_sink_that_asks(place) -> None:
    partition = PartitionId(place.topic, place.kafka.topic_id(place.topic), 1)
    passed = PassedByHand(place.kafka.properties, place.positions, place.group, "partner")
    assert not passed(partition, 41)

    place.done("pass", "partner", "1", "41")

    deadline = time.monotonic() + 10
    while not passed(partition, 41) and time.monotonic() < deadline:
        pass
    assert passed(partition, 41)
    assert not passed(partition, 42)
    assert not passed(PartitionId(place.topic, "another incarnation", 1), 41)
    passed.close()
    assert place.run("pass", "partner", "9", "41").returncode == 1
    assert place.run("pass", "dead_letters", "1", "41").returncode == 2


def test_a_replayed_letter_means_the_same_event_at_its_new_offset() -> None:
    """What parse makes of a replayed record is what it would have made of the original."""
    from operations.letters import _as_records

    value = encoded({"content_id": None, "event_type": "pause", "duration_ms": 5})
    headers = {"topic": "t", "partition": "1", "offset": "41", "kafka_timestamp": "1754836225000", "sink": "bigquery"}
    letter = Letter(0, 3, b"k", value, headers)
    original = parse(_as_records(letter, {"kafka_timestamp": "1754836225000"}))

    record = replay_of(letter, "t").record
    moved = Letter(0, 3, b"k", value, {**headers, "offset": "977"})
    again = parse(_as_records(moved, {name: raw.decode() for name, raw in record.headers}))

    assert (again.event_ids, again.event_ts_us.tolist(), again.timestamps_ms.tolist(), again.targets) == (
        original.event_ids,
        original.event_ts_us.tolist(),
        original.timestamps_ms.tolist(),
        ["bigquery"],
    )
