"""Dead letters, from reading them to bringing them back: list, show, replay, edit, pass."""

import json
import os
import shlex
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from confluent_kafka.admin import AdminClient

from operations.letters import Letter, Replay, read_letter, read_letters, replay_of
from operations.replay import Replayer
from operations.terminal import Problem, in_words, waiting
from settings import Settings
from sinks.transactions import Record, Transactions
from sources.kafka_topics import Topic, admin_client, ask, describe
from sources.position_records import Mark, pass_key
from sources.provisioned import PROVISION

PASSING_SINKS = ("bigquery", "partner")

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)

Reason = Annotated[str | None, typer.Option(help="Only letters with this reason code.")]
Sink = Annotated[str | None, typer.Option(help="Only what this one refused: parse, bigquery or partner.")]
Since = Annotated[str | None, typer.Option(help="Only what was refused at or after this time (ISO 8601, UTC).")]
Until = Annotated[str | None, typer.Option(help="Only what was refused before this time (ISO 8601, UTC).")]


@dataclass(frozen=True)
class Place:
    """Where the letters of this installation lie."""

    settings: Settings

    @cached_property
    def admin(self) -> AdminClient:
        return admin_client(self.settings.kafka)

    @cached_property
    def letters(self) -> Topic:
        return self._topic(self.settings.kafka_topic_dead_letters)

    @cached_property
    def events(self) -> Topic:
        return self._topic(self.settings.kafka_topic_engagement_events)

    def read(self) -> Iterator[Letter]:
        return read_letters(self.settings.kafka, self.admin, self.letters)

    def one(self, partition: int, offset: int) -> Letter:
        return read_letter(self.settings.kafka, self.admin, self.letters, partition, offset)

    def replayer(self) -> Replayer:
        return Replayer(
            self.settings.kafka, self.settings.kafka_consumer_group, self.letters, self.settings.topic_positions
        )

    def _topic(self, name: str) -> Topic:
        where = self.settings.kafka["bootstrap.servers"]
        found = ask(f"reach Kafka at {where}", lambda: describe(self.admin, name), waiting)
        if found is None:
            raise Problem(f"Kafka has no topic {name}: create it with: {PROVISION}")
        return found


@app.command("list")
def list_letters(
    reason: Reason = None,
    sink: Sink = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many, the newest; the counts are of all.")] = 50,
) -> None:
    """Show the letters and how many there are of each reason."""
    wanted = _filter(reason, sink, since, until)
    with in_words():
        place = Place(Settings.from_env("kafka"))
        replayer = place.replayer()
        replayer.read_marks()
        found = sorted((letter for letter in place.read() if wanted(letter)), key=_when)
        replayed = Counter((each.sink, each.reason) for each in found if replayer.is_replayed(each))
        counts = Counter((each.sink, each.reason) for each in found)
        typer.echo(f"{'REFUSED BY':<12}{'REASON':<32}{'LETTERS':>9}{'REPLAYED':>10}")
        for kind, count in counts.most_common():
            typer.echo(f"{kind[0]:<12}{kind[1]:<32}{count:>9}{replayed[kind]:>10}")
        typer.echo(f"{'all':<44}{len(found):>9}{replayed.total():>10}")
        shown = found[max(0, len(found) - limit) :]
        if shown:
            typer.echo("")
        for letter in shown:
            mark = "replayed" if replayer.is_replayed(letter) else ""
            typer.echo(
                f"{letter.id:<10}{letter.headers.get('rejected_at', '?'):<26}{letter.sink:<12}{letter.reason:<28}"
                f"{mark:<10}{letter.origin}  {letter.headers.get('detail', '')}"
            )


@app.command()
def show(partition: int, offset: int) -> None:
    """Show one letter whole: headers, key and payload."""
    with in_words():
        place = Place(Settings.from_env("kafka"))
        letter = place.one(partition, offset)
        replayer = place.replayer()
        replayer.read_marks()
        for name, text in letter.headers.items():
            typer.echo(f"{name:<16}{text}")
        typer.echo(f"{'replayed':<16}{'yes' if replayer.is_replayed(letter) else 'no'}")
        typer.echo(f"{'key':<16}{_readable(letter.key)}")
        typer.echo(_readable(letter.value))


@app.command()
def replay(
    reason: Reason = None,
    sink: Sink = None,
    since: Since = None,
    until: Until = None,
    ids: Annotated[
        list[str] | None, typer.Option("--id", metavar="PARTITION/OFFSET", help="This letter; may be repeated.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All letters: no other choice needed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be replayed, and do nothing.")] = False,
    rejected_too: Annotated[
        bool, typer.Option("--rejected-too", help="Also what parse would reject again, as it did before.")
    ] = False,
) -> None:
    """Bring letters back, each once: a second replay of a letter delivers nothing."""
    if not any((reason, sink, since, until, ids, everything)):
        raise typer.BadParameter("say which letters: --reason, --sink, --since, --until, --id or --all")
    chosen = {_id(text) for text in ids or ()}
    wanted = _filter(reason, sink, since, until)
    with in_words():
        place = Place(Settings.from_env("kafka"))
        replayer = place.replayer()
        replayer.read_marks() if dry_run else replayer.open()
        letters = chain.from_iterable([place.one(*each)] for each in sorted(chosen)) if chosen else place.read()
        tally = Tally(place.events.name, replayer, rejected_too)
        replays = tally.sort(letter for letter in letters if wanted(letter))
        delivered = sum(1 for _ in replays) if dry_run else _deliver(replayer, replays)
        typer.echo(f"{'would replay' if dry_run else 'replayed'} {delivered} letters")
        tally.tell()


@app.command()
def edit(
    partition: int,
    offset: int,
    payload: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The new payload; without it $EDITOR opens.")
    ] = None,
) -> None:
    """Correct the payload of one letter and replay it. What parse would reject is refused here, with its reason."""
    with in_words():
        place = Place(Settings.from_env("kafka"))
        letter = place.one(partition, offset)
        replayer = place.replayer()
        replayer.open()
        if replayer.is_replayed(letter):
            raise Problem(f"Letter {letter.id} was replayed before: it is not delivered twice.")
        corrected = payload.read_bytes().rstrip(b"\r\n") if payload else _edited(letter)
        replay = replay_of(letter, _own_topic(letter, place.events.name), corrected)
        if replay.refusal:
            raise Problem(f"parse would reject it again ({replay.refusal.reason}): {replay.refusal.detail}")
        typer.echo(f"replayed {_deliver(replayer, iter([replay]))} letters")


@app.command("pass")
def pass_event(sink: str, partition: int, offset: int) -> None:
    """Let a sink whose breaker is open make a dead letter of the event it waits for, and go on."""
    if sink not in PASSING_SINKS:
        raise typer.BadParameter(f"{sink!r} refuses no single events: {' or '.join(PASSING_SINKS)}")
    with in_words():
        settings = Settings.from_env("kafka")
        place = Place(settings)
        if partition >= place.events.partitions:
            raise Problem(f"Topic {place.events.name} has {place.events.partitions} partitions, none is {partition}.")
        group = settings.kafka_consumer_group
        mark = msgspec.json.encode(Mark(place.events.topic_id, int(time.time() * 1000)))
        transactions = Transactions(settings.kafka, f"{group}.dead-letters.pass")
        transactions.open()
        key = pass_key(group, sink, partition, offset)
        transactions.run([Record(settings.topic_positions, key.encode(), mark)])
        typer.echo(f"{sink} may pass the event at offset {offset} of partition {partition}: it becomes a dead letter")


class Tally:
    """Sorts letters into those to deliver and those left, and says why they were left."""

    def __init__(self, topic: str, replayer: Replayer, rejected_too: bool) -> None:
        self._topic, self._replayer, self._rejected_too = topic, replayer, rejected_too
        self._before = self._foreign = 0
        self._refused: Counter[str] = Counter()
        self._first: dict[str, Letter] = {}

    def sort(self, letters: Iterator[Letter]) -> Iterator[Replay]:
        for letter in letters:
            if self._replayer.is_replayed(letter):
                self._before += 1
                continue
            if letter.headers.get("topic") != self._topic:
                self._foreign += 1
                continue
            replay = replay_of(letter, self._topic)
            if replay.refusal and not self._rejected_too:
                self._refused[replay.refusal.reason] += 1
                self._first.setdefault(replay.refusal.reason, letter)
                continue
            yield replay

    def tell(self) -> None:
        if self._before:
            typer.echo(f"left {self._before} letters that were replayed before")
        if self._foreign:
            typer.echo(f"left {self._foreign} letters of other topics than {self._topic}")
        for reason, count in self._refused.items():
            first = self._first[reason]
            typer.echo(
                f"left {count} letters that parse would reject again ({reason}), the first is {first.id}: correct it "
                f"with: python -m operations.dead_letters edit {first.partition} {first.offset}"
            )


def _deliver(replayer: Replayer, replays: Iterator[Replay]) -> int:
    delivered = 0
    for count in replayer.deliver(replays):
        delivered += count
        typer.echo(f"replayed  {delivered} so far", err=True)
    return delivered


def _own_topic(letter: Letter, topic: str) -> str:
    if letter.headers.get("topic") != topic:
        raise Problem(f"Letter {letter.id} is of topic {letter.headers.get('topic')}, not {topic}: set KAFKA_TOPIC.")
    return topic


def _edited(letter: Letter) -> bytes:
    """What the operator's editor leaves."""
    try:
        text = (letter.value or b"").decode()
    except UnicodeDecodeError:
        raise Problem(f"Letter {letter.id} is not UTF-8: write the payload to a file, and use --payload.") from None
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.NamedTemporaryFile("w+", suffix=".json", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        if subprocess.run([*shlex.split(editor), file.name], check=False).returncode:
            raise Problem(f"{editor} failed: nothing is replayed. Set EDITOR, or use --payload.")
        edited = Path(file.name).read_bytes().rstrip(b"\r\n")
    if edited == letter.value:
        raise Problem("Nothing was changed, nothing is replayed.")
    return edited


def _filter(reason: str | None, sink: str | None, since: str | None, until: str | None) -> Callable[[Letter], bool]:
    begin, end = _time(since, "--since"), _time(until, "--until")

    def wanted(letter: Letter) -> bool:
        at = letter.rejected_at
        return (
            (reason is None or letter.reason == reason)
            and (sink is None or letter.sink == sink)
            and (begin is None or (at is not None and at >= begin))
            and (end is None or (at is not None and at < end))
        )

    return wanted


def _time(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as wrong:
        raise typer.BadParameter(f"{text!r} is no time such as 2025-08-10T14:30Z", param_hint=option) from wrong
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _when(letter: Letter) -> tuple[datetime, int, int]:
    return letter.rejected_at or datetime.min.replace(tzinfo=UTC), letter.partition, letter.offset


def _id(text: str) -> tuple[int, int]:
    partition, _, offset = text.partition("/")
    if not (partition.isdigit() and offset.isdigit()):
        raise typer.BadParameter(f"{text!r} is not PARTITION/OFFSET of a letter: see the list", param_hint="--id")
    return int(partition), int(offset)


def _readable(raw: bytes | None) -> str:
    """Text as text, JSON with its spaces, bytes that are no text in Python's notation."""
    if raw is None:
        return "(none)"
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return repr(raw)
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


if __name__ == "__main__":
    app()
