"""The real PostgreSQL, Kafka and Valkey from wheels (and a BigQuery stand-in), as child processes of demo and tests."""

from demo.services.bigquery import BigQueryEmulator
from demo.services.kafka import KafkaServer
from demo.services.postgres import PostgresServer
from demo.services.server import Server
from demo.services.valkey import ValkeyServer

KINDS: dict[str, type[Server]] = {
    "kafka": KafkaServer,
    "postgres": PostgresServer,
    "redis": ValkeyServer,
    "bigquery": BigQueryEmulator,
}

__all__ = ["KINDS", "BigQueryEmulator", "KafkaServer", "PostgresServer", "Server", "ValkeyServer"]
