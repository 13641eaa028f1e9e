"""How the commands speak: answers on stdout, everything else, the log included, on stderr."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import stamina.instrumentation
import structlog
import typer
from confluent_kafka import KafkaException

from sources.positions import FlowStopped


class Problem(Exception):
    """Something that this command cannot cure; the text says what to do."""


def waiting(what: str) -> None:
    """Says what is waited for."""
    typer.echo(f"waiting   to {what}: it does not answer yet", err=True)


@contextmanager
def in_words() -> Iterator[None]:
    """Around a command: what stops it is said in a sentence, and the exit code is 1."""
    stamina.instrumentation.set_on_retry_hooks([])  # what is waited for is said by `waiting`
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger("warning"),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        yield
    except (Problem, FlowStopped) as problem:
        typer.echo(str(problem), err=True)
        raise typer.Exit(1) from problem
    except KafkaException as failure:
        typer.echo(f"Kafka refuses: {failure.args[0].str()}", err=True)
        raise typer.Exit(1) from failure
