"""Why an audit could not look."""

from collections.abc import Iterator
from contextlib import contextmanager

import google.auth.exceptions
import psycopg
import redis
import requests
from confluent_kafka import KafkaException
from google.api_core.exceptions import GoogleAPIError

from sources.positions import FlowStopped


class CouldNotLook(Exception):
    """A service is away or refuses: nothing is known about the events. The text is one sentence. Exit code 2."""


@contextmanager
def looking_at(service: str) -> Iterator[None]:
    """Puts what a service's client raises into words."""
    try:
        yield
    except KafkaException as failure:
        raise CouldNotLook(f"Could not look into {service}: {failure.args[0].str()}") from failure
    except (
        psycopg.Error,
        redis.RedisError,
        requests.exceptions.RequestException,
        TimeoutError,
        GoogleAPIError,
        google.auth.exceptions.GoogleAuthError,
        FlowStopped,
    ) as failure:
        words = " ".join(str(failure).split())[:300]
        raise CouldNotLook(f"Could not look into {service}: {words or type(failure).__name__}") from failure
