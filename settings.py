"""Every environment variable: name, meaning, default. Read once, at the start of a process; `.env` is read too.

A secret may come from a file: NAME_FILE=/run/secrets/name. One error names every missing or wrong variable.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote, urlsplit

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)

SinkName = Literal["redis", "bigquery", "partner", "dead_letters"]
Need = Literal["postgres", "kafka", "redis", "bigquery", "partner"]

WITHOUT_EFFECT = ("BATCH_SIZE", "PROCESSING_INTERVAL_SECONDS")
SECRETS = (
    "DATABASE_URL",
    "POSTGRES_PASSWORD",
    "REDIS_URL",
    "EXTERNAL_API_TOKEN",
    "API_TOKEN",
    "API_READ_TOKEN",
    "KAFKA_CONFIG_SASL_PASSWORD",
    "KAFKA_CONFIG_SASL_OAUTHBEARER_CLIENT_SECRET",
    "KAFKA_CONFIG_SSL_KEY_PASSWORD",
    "KAFKA_CONFIG_SSL_KEY_PEM",
    "KAFKA_CONFIG_SSL_KEYSTORE_PASSWORD",
)
SECRET_FILES = tuple(f"{name}_FILE" for name in SECRETS)


class SettingsError(SystemExit):
    """Settings are missing or wrong; the text names each variable. Uncaught it prints itself and exits with 1."""

    def __init__(self, problems: Iterable[str]) -> None:
        listed = "\n".join(f"  {problem}" for problem in problems)
        super().__init__(
            f"Settings are missing or wrong:\n{listed}\nSet them in the environment or in .env (README, Settings)."
        )


def _names(value: Any) -> Any:
    """'redis, bigquery' -> ('redis', 'bigquery')."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _partitions(value: Any) -> Any:
    """'0-3' or '0,2,5-7' -> (0, 1, 2, 3); empty means all partitions of the topic."""
    if not isinstance(value, str):
        return value
    partitions: set[int] = set()
    for part in filter(None, (part.strip() for part in value.split(","))):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or int(last or first) < int(first):
            raise ValueError(f"{part!r} is no partition and no range: write 0-3 or 0,2,5")
        partitions.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(partitions))


def _only_true(value: bool) -> bool:
    if not value:
        raise ValueError("exactly once cannot be switched off: remove the variable")
    return value


def _bare_host(value: Any) -> Any:
    """An emulator's address with or without scheme -> host:port."""
    return value.split("://", 1)[-1].rstrip("/") if isinstance(value, str) else value


def _database_url(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text.startswith(("postgresql://", "postgres://")) and ("://" in text or "=" not in text):
        raise ValueError("must be postgresql://user:password@host:port/db")
    return value


def _redis_url(value: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(value.get_secret_value())
        known = parts.scheme in ("redis", "rediss", "unix") and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if not known:
        raise ValueError("must be redis://host:port or rediss://user:password@host:port")
    return value


def _http_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        whole = False
    if not whole or not value.isprintable() or " " in value:
        raise ValueError("must be http://host/path or https://host:port/path")
    if parts.username is not None:
        raise ValueError("must not carry a user: who we are says EXTERNAL_API_TOKEN")
    return value


def _header_value(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text.isascii() or not text.isprintable() or text != text.strip():
        raise ValueError("has characters that no HTTP header can carry: check it for line ends and blanks")
    return value


def _token_or_hash(value: SecretStr) -> SecretStr:
    text = _header_value(value).get_secret_value()
    if text.startswith("sha256:") and not re.fullmatch("sha256:[0-9a-f]{64}", text):
        raise ValueError("must be a token, or sha256: and 64 hexadecimal digits: printf %s TOKEN | sha256sum")
    return value


TOPIC = r"^[A-Za-z0-9._-]{1,239}$"  # Kafka's 249 less the ending of the positions
HeaderValue = Annotated[SecretStr, AfterValidator(_header_value)]
TokenOrHash = Annotated[SecretStr, AfterValidator(_token_or_hash)]


class Settings(BaseModel):
    """The values of the environment, checked. Secrets print as stars."""

    model_config = ConfigDict(frozen=True, populate_by_name=True, extra="ignore")

    # PostgreSQL
    database_url: Annotated[SecretStr, AfterValidator(_database_url)] | None = Field(
        None, description="postgresql://user:password@host:port/db"
    )
    postgres_host: str | None = Field(None, description="instead of DATABASE_URL, with the next four")
    postgres_port: int = Field(5432, ge=1, le=65535)
    postgres_db: str = "postgres"
    postgres_user: str = "postgres"
    postgres_password: SecretStr | None = None
    cdc_slot: str = Field("engagement", pattern=r"^[a-z0-9_]{1,63}$", description="replication slot of the capture")
    cdc_publication: str = Field("engagement", pattern=r"^[a-z0-9_]{1,63}$")

    # Kafka
    kafka_bootstrap_servers: str | None = Field(None, description="host:port, comma separated")
    kafka_topic_engagement_events: str = Field(
        "engagement-events",
        validation_alias=AliasChoices("KAFKA_TOPIC_ENGAGEMENT_EVENTS", "KAFKA_TOPIC"),
        pattern=TOPIC,
    )
    kafka_topic_partitions: int = Field(4, ge=1, le=10_000, description="partitions of the topic when it is created")
    kafka_topic_dead_letters: str = Field("engagement-events.dead-letters", pattern=TOPIC)
    kafka_consumer_group: str = Field("engagement", min_length=1, description="positions live in <group>.<sink>")
    kafka_config: dict[str, str] = Field(
        default_factory=dict,
        repr=False,  # may hold passwords
        description="any librdkafka property, from KAFKA_CONFIG_<PROPERTY_WITH_UNDERSCORES>",
    )

    # Redis
    redis_url: Annotated[SecretStr, AfterValidator(_redis_url)] | None = Field(
        None, description="redis://, rediss://; or REDIS_HOST and REDIS_PORT"
    )
    redis_host: str | None = None
    redis_port: int = Field(6379, ge=1, le=65535)
    redis_cluster_nodes: str | None = Field(
        None,
        pattern=r"^\s*[^\s,]+:\d{1,5}\s*(,\s*[^\s,]+:\d{1,5}\s*)*$",
        description="host:port, comma separated: a Redis Cluster",
    )
    redis_aggregation_window_minutes: int = Field(10, ge=1, le=60, description="length of a tumbling window")

    # BigQuery
    bigquery_project_id: str | None = Field(
        None, validation_alias=AliasChoices("BIGQUERY_PROJECT_ID", "GOOGLE_CLOUD_PROJECT")
    )
    bigquery_dataset_id: str = "engagement_analytics"
    bigquery_table_id: str = "enriched_events"
    google_application_credentials: Path | None = Field(
        None, validation_alias=AliasChoices("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CREDENTIALS_PATH")
    )
    bigquery_emulator_host: Annotated[str | None, BeforeValidator(_bare_host)] = Field(None, description="REST")
    bigquery_emulator_grpc_host: Annotated[str | None, BeforeValidator(_bare_host)] = None

    # Partner
    external_api_url: Annotated[str, AfterValidator(_http_url)] | None = None
    external_api_token: HeaderValue | None = None
    external_api_batch_size: int = Field(500, ge=1, le=10_000, description="events per request")
    external_api_timeout_seconds: float = Field(10, gt=0, le=300)

    # This process
    sinks: Annotated[tuple[SinkName, ...], BeforeValidator(_names)] = ("redis", "bigquery", "partner", "dead_letters")
    kafka_partitions: Annotated[tuple[int, ...], BeforeValidator(_partitions)] = Field(
        (), description="the Kafka partitions of this process, such as 0-3; empty: all"
    )
    allowed_lateness_seconds: int = Field(600, ge=0, description="at least the window length")
    health_port: int = Field(0, ge=0, le=65535, description="/health /ready /metrics of this process; 0: none")
    api_port: int = Field(8080, ge=0, le=65535)
    api_host: str = Field("127.0.0.1", min_length=1, description="address the API binds; others need a token")
    api_token: TokenOrHash | None = Field(None, description="role operate; the token or sha256:<its hash>")
    api_read_token: TokenOrHash | None = Field(None, description="role read")
    api_rate_limit: str = Field(
        "1000/second", pattern=r"^[1-9]\d*/(second|minute|hour)$", description="requests of one address to the API"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    enable_exactly_once: Annotated[bool, AfterValidator(_only_true)] = Field(True, description="not to be switched off")

    @classmethod
    def from_env(cls, *needs: Need, env: Mapping[str, str] | None = None, sinks: bool = False) -> Self:
        """Read the environment (and .env) once.

        needs  the systems this process talks to: their variables must be there
        sinks  add what each name in SINKS needs
        Raises SettingsError, which names every missing or wrong variable at once.
        """
        values = _environment(env)
        problems = values.pop("", "").splitlines()
        data: dict[str, Any] = {
            field: values[alias]
            for field in cls.model_fields
            for alias in reversed(_aliases(cls, field))  # the first one last: it wins
            if values.get(alias)
        }
        data["kafka_config"] = {
            name.removeprefix("KAFKA_CONFIG_").lower().replace("_", "."): value
            for name, value in values.items()
            if name.startswith("KAFKA_CONFIG_") and name not in SECRET_FILES
        }
        read: Self | None = None
        try:
            read = cls.model_validate(data)
        except ValidationError as error:
            for detail in error.errors():
                name = str(detail["loc"][0]).upper() if detail["loc"] else "?"
                problems.append(
                    f"{name}={_shown(name, detail.get('input'))}: {detail['msg'].removeprefix('Value error, ')}"
                )
        wanted: set[str] = set(needs)
        if sinks:
            wanted |= set(_names(data.get("sinks") or cls.model_fields["sinks"].default))
        problems += _missing(wanted, {name for name, value in data.items() if value})
        if "kafka" in wanted:
            problems += _refused_by_librdkafka(data["kafka_config"])
        if read and read.allowed_lateness_seconds < read.redis_aggregation_window_minutes * 60:
            problems.append(
                f"ALLOWED_LATENESS_SECONDS={read.allowed_lateness_seconds}: must be at least the window length, "
                f"{read.redis_aggregation_window_minutes * 60} (REDIS_AGGREGATION_WINDOW_MINUTES)"
            )
        if problems or read is None:
            raise SettingsError(problems)
        return read

    @property
    def postgres(self) -> str:
        """Connection string of PostgreSQL."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        password = quote(self.postgres_password.get_secret_value(), safe="") if self.postgres_password else ""
        user = quote(self.postgres_user, safe="") + (f":{password}" if password else "")
        return f"postgresql://{user}@{self.postgres_host}:{self.postgres_port}/{self.postgres_db}"

    @property
    def kafka(self) -> dict[str, str]:
        """librdkafka properties every client starts from: where the brokers are, and KAFKA_CONFIG_*."""
        return {"bootstrap.servers": self.kafka_bootstrap_servers or "", **self.kafka_config}

    @property
    def redis(self) -> str:
        """URL of Redis (of its first node where REDIS_CLUSTER_NODES is set); "" where none is named."""
        if self.redis_url is not None:
            return self.redis_url.get_secret_value()
        if self.redis_cluster_nodes:
            return f"redis://{self.redis_cluster_nodes.split(',')[0].strip()}"
        return f"redis://{self.redis_host}:{self.redis_port}" if self.redis_host else ""

    @property
    def bigquery(self) -> dict[str, Any]:
        """Where enriched events go, as sinks.bigquery_client.BigQueryTable takes it."""
        return {
            "project": self.bigquery_project_id or "",
            "dataset": self.bigquery_dataset_id,
            "table": self.bigquery_table_id,
            "rest": self.bigquery_emulator_host,
            "grpc": self.bigquery_emulator_grpc_host,
            "credentials": self.google_application_credentials,
        }

    @property
    def topic_positions(self) -> str:
        """Compacted topic of one partition: what was provisioned, and where the capture stands."""
        return f"{self.kafka_topic_engagement_events}.positions"


def ignored(env: Mapping[str, str] | None = None) -> list[str]:
    """Names that are accepted and have no effect, as found in the environment: said once in the log."""
    values = _environment(env)
    return [name for name in WITHOUT_EFFECT if name in values]


def _environment(env: Mapping[str, str] | None) -> dict[str, str]:
    """The environment over .env, with NAME_FILE resolved; problems with such files under the key ''."""
    source: dict[str, str] = {}
    if env is None:
        env = os.environ
        source = {name: value for name, value in dotenv_values(".env").items() if value is not None}
        for name in SECRETS:
            if env.get(name) or env.get(f"{name}_FILE"):  # one of them there replaces both here
                source.pop(name, None)
                source.pop(f"{name}_FILE", None)
    source |= env
    problems = []
    for name in SECRETS:
        path = source.get(f"{name}_FILE")
        if not path:
            continue
        if source.get(name):
            problems.append(f"{name} and {name}_FILE are both set: keep one")
            continue
        try:
            source[name] = Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            problems.append(f"{name}_FILE={path}: {error.strerror}")
        except UnicodeDecodeError:
            problems.append(f"{name}_FILE={path}: is no UTF-8 text")
    if problems:
        source[""] = "\n".join(problems)
    return source


def _refused_by_librdkafka(properties: Mapping[str, str]) -> list[str]:
    """What librdkafka says of these properties, one line for each that it names. No broker is contacted."""
    if not properties:
        return []
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    problems = []
    left = dict(properties)
    while True:
        try:
            AdminClient({**left, "bootstrap.servers": "", "log_level": "0"})
        except KafkaException as error:
            words = error.args[0].str()
            quoted = [name for name in left if f'"{name}"' in words]  # unknown, or has a value it cannot have
            named = quoted or [name for name in left if f"{name} failed" in words]
            problems.append(f"KAFKA_CONFIG_{named[0].upper().replace('.', '_') if named else '*'}: {words}")
            if quoted:
                del left[quoted[0]]
                continue
        return problems


def _aliases(model: type[BaseModel], field: str) -> list[str]:
    alias = model.model_fields[field].validation_alias
    return [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else [field.upper()]


def _shown(name: str, value: Any) -> str:
    return "***" if name in SECRETS or "@" in str(value) else repr(value)  # a URL may hold a password


def _missing(needs: set[str], present: set[str]) -> list[str]:
    rules: dict[str, tuple[str, bool]] = {
        "postgres": (
            "DATABASE_URL (or POSTGRES_HOST, POSTGRES_PORT, POSTGRES_DB, POSTGRES_USER, POSTGRES_PASSWORD)",
            bool({"database_url", "postgres_host"} & present),
        ),
        "kafka": ("KAFKA_BOOTSTRAP_SERVERS", "kafka_bootstrap_servers" in present),
        "redis": (
            "REDIS_URL (or REDIS_HOST and REDIS_PORT)",
            bool({"redis_url", "redis_host", "redis_cluster_nodes"} & present),
        ),
        "bigquery": ("BIGQUERY_PROJECT_ID (or GOOGLE_CLOUD_PROJECT)", "bigquery_project_id" in present),
        "partner": ("EXTERNAL_API_URL and EXTERNAL_API_TOKEN", {"external_api_url", "external_api_token"} <= present),
    }
    return [f"{text}: missing" for need, (text, there) in rules.items() if need in needs and not there]
