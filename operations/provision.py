"""Everything that must be there before the first flow starts: topics, publication, first positions, BigQuery.

Idempotent: what is there is left alone. A flow that misses something names this command.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from operations.first_positions import FirstPositions, Order
from operations.publication import publication_step
from operations.recapture import order_recapture
from operations.steps import Step, run
from operations.terminal import Problem, in_words, waiting
from operations.topics import topic_steps, wanted_topics
from settings import Need, Settings
from sources.kafka_topics import Topic, admin_client, ask

if TYPE_CHECKING:
    from sinks.redis_layout import PartitionKeys

T = TypeVar("T")

# All of them, whatever SINKS says here: the deployments of one group share topic and provision.
SINKS = ("redis", "bigquery", "partner", "dead_letters")


def main(
    check: Annotated[bool, typer.Option("--check", help="Only look; exit 1 where something is missing.")] = False,
    position: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SINK[/PARTITION]=earliest|end|OFFSET",
            help="Set where a sink goes on. The flow that runs is fenced, ends, and starts from there.",
        ),
    ] = None,
    accept_partitions: Annotated[
        bool,
        typer.Option(
            "--accept-partitions",
            help="The topic has more partitions than before; a content's events may lie in two of them.",
        ),
    ] = False,
    recapture: Annotated[
        bool,
        typer.Option(
            "--recapture",
            help="The slot is lost, or PostgreSQL another one: the capture then sends the rows that the topic lacks.",
        ),
    ] = False,
) -> None:
    """Make what the flows stand on: topics, publication, first positions, BigQuery's dataset, tables and views."""
    settings = Settings.from_env("kafka") if recapture else _settings()
    try:
        orders = [Order.parse(text, SINKS) for text in position or []]
    except ValueError as wrong:
        raise typer.BadParameter(str(wrong), param_hint="--position") from wrong
    if recapture and (check or orders):
        raise typer.BadParameter("it stands alone", param_hint="--recapture")
    with in_words():
        if recapture:
            typer.echo(f"recapture {order_recapture(settings)}")
            return
        positions = _positions(settings)
        if orders and not check:
            for line in positions.set(orders):
                typer.echo(f"set       {line}")
            return
        missing = run(steps(settings, positions, accept_partitions), check)
    if missing:
        typer.echo(f"Missing: {', '.join(missing)}. Make them with: python -m operations.provision", err=True)
        raise typer.Exit(1)


def steps(settings: Settings, positions: FirstPositions, accept_partitions: bool) -> Iterator[Step]:
    """In the order in which things need one another."""
    wanted = wanted_topics(
        settings.kafka_topic_engagement_events,
        settings.kafka_topic_partitions,
        settings.kafka_topic_dead_letters,
        settings.topic_positions,
    )
    admin = admin_client(settings.kafka)
    yield from topic_steps(settings.kafka, admin, wanted)
    for sink in SINKS:
        yield positions.step(sink, accept_partitions)
    yield publication_step(settings.postgres, settings.cdc_publication)
    if "bigquery" in settings.sinks:
        yield _bigquery(settings)


def _settings() -> Settings:
    needs: list[Need] = ["kafka", "postgres"]
    settings = Settings.from_env(*needs)
    return Settings.from_env(*needs, "bigquery") if "bigquery" in settings.sinks else settings


def _positions(settings: Settings) -> FirstPositions:
    def keep_in_redis(topic: Topic, offsets: Mapping[int, int]) -> None:
        _set_redis(settings, topic, offsets)

    return FirstPositions(
        settings.kafka,
        admin_client(settings.kafka),
        settings.kafka_topic_engagement_events,
        settings.topic_positions,
        settings.kafka_consumer_group,
        keep_in_redis,
    )


def _set_redis(settings: Settings, topic: Topic, offsets: Mapping[int, int]) -> None:
    """Another owner's token fences the flow that holds the partition."""
    from sinks.redis_client import Waiting
    from sinks.redis_layout import Group
    from sinks.repetition import give_up, never

    if not (settings.redis_url or settings.redis_host or settings.redis_cluster_nodes):
        raise Problem("The position of sink redis lies in Redis: set REDIS_URL (or REDIS_HOST).")
    layout = Group(settings.kafka_consumer_group, topic.name, settings.redis_aggregation_window_minutes)
    redis = Waiting(settings.redis, settings.redis_cluster_nodes, never, give_up)
    for partition, offset in offsets.items():
        position = {"next": offset, "topic_id": topic.topic_id, "owner": token_hex(16)}
        redis.call("set its position", partial(_begin_anew, layout.partition(partition), position))


def _begin_anew(keys: "PartitionKeys", position: dict[str, Any], client: Any) -> None:
    """Set the position. Before what is counted already nothing of that may stay, or it would count twice."""
    stored = client.hget(keys.position, "next")
    client.hset(keys.position, "owner", position["owner"])  # from here on nobody else writes
    if stored is None or position["next"] >= int(stored):
        client.hset(keys.position, mapping=position)
        return
    for key in client.scan_iter(match=re.sub(r"([*?\[\]\\])", r"\\\1", keys.tag) + ":*", count=1000):
        if key != keys.position.encode():
            client.unlink(key)
    pipeline = client.pipeline(transaction=True)
    pipeline.delete(keys.position)  # its watermark and its counters
    pipeline.hset(keys.position, mapping=position)
    pipeline.execute()


def _bigquery(settings: Settings) -> Step:
    """Dataset, tables and views, as one step: sinks.bigquery_tables compares and makes them one by one."""
    from sinks import bigquery_tables
    from sinks.bigquery_client import Away, BigQueryTable, translated

    table = BigQueryTable(**settings.bigquery)

    def missing() -> str | None:
        return "; ".join(asked(lambda client: bigquery_tables.check(client, table))) or None

    def make() -> None:
        for name, created in asked(lambda client: bigquery_tables.ensure(client, table)):
            typer.echo(f"{'created  ' if created else 'there    '} {name}")

    def asked(call: Callable[[Any], T]) -> T:
        """Waits while BigQuery is away."""

        def once() -> T:
            try:
                return call(table.query_client())
            except Exception as failure:
                raise translated(failure, "make dataset, tables and views") from failure

        return ask("reach BigQuery", once, waiting, lambda failure: isinstance(failure, Away))

    return Step(f"BigQuery dataset {table.project}.{table.dataset} with tables and views", missing, make)


if __name__ == "__main__":
    typer.run(main)
