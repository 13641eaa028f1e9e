"""Settings: one error names everything that is wrong; secrets are never printed."""

from pathlib import Path

import pytest

from settings import Settings, SettingsError, ignored

FULL = {
    "DATABASE_URL": "postgresql://u:secret@db/app",
    "KAFKA_BOOTSTRAP_SERVERS": "k:9092",
    "REDIS_URL": "rediss://:secret@r:6380",
    "BIGQUERY_PROJECT_ID": "p",
    "EXTERNAL_API_URL": "https://partner.example/v1/events",
    "EXTERNAL_API_TOKEN": "secret",
}


def read(**env: str) -> Settings:
    return Settings.from_env(env=env)


def problems(*needs: str, sinks: bool = False, **env: str) -> str:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(*needs, env=env, sinks=sinks)  # type: ignore[arg-type]
    return str(caught.value)


def test_defaults_are_those_of_the_readme() -> None:
    settings = read()
    assert settings.kafka_topic_engagement_events == "engagement-events"
    assert settings.topic_positions == "engagement-events.positions"
    assert settings.kafka_topic_dead_letters == "engagement-events.dead-letters"
    assert settings.sinks == ("redis", "bigquery", "partner", "dead_letters")
    assert settings.kafka_partitions == ()
    assert settings.redis_aggregation_window_minutes == 10
    assert settings.allowed_lateness_seconds == 600


def test_one_error_names_everything_that_is_missing_or_wrong() -> None:
    said = problems("postgres", "kafka", sinks=True, API_PORT="eighty", SINKS="redis,partner", LOG_LEVEL="LOUD")
    for name in ("DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS", "REDIS_URL", "EXTERNAL_API_TOKEN", "API_PORT", "LOG_LEVEL"):
        assert name in said
    assert "BIGQUERY_PROJECT_ID" not in said  # not in SINKS


def test_all_needs_are_met_by_a_full_environment() -> None:
    settings = Settings.from_env("postgres", "kafka", env=FULL, sinks=True)
    assert settings.postgres == FULL["DATABASE_URL"]
    assert settings.redis == FULL["REDIS_URL"]
    assert settings.kafka == {"bootstrap.servers": "k:9092"}


def test_secrets_are_not_printed() -> None:
    settings = read(**FULL)
    assert "secret" not in repr(settings)
    assert "hunter2" not in problems("kafka", EXTERNAL_API_TOKEN="hunter2", DATABASE_URL="postgresql://u:hunter2@db/a")


@pytest.mark.parametrize(
    ("name", "alias", "field"),
    [
        ("KAFKA_TOPIC_ENGAGEMENT_EVENTS", "KAFKA_TOPIC", "kafka_topic_engagement_events"),
        ("BIGQUERY_PROJECT_ID", "GOOGLE_CLOUD_PROJECT", "bigquery_project_id"),
    ],
)
def test_an_alias_stands_in_and_the_name_wins(name: str, alias: str, field: str) -> None:
    assert getattr(read(**{alias: "other"}), field) == "other"
    assert getattr(read(**{alias: "other", name: "this"}), field) == "this"


@pytest.mark.parametrize(
    ("text", "partitions"), [("0-3", (0, 1, 2, 3)), ("0,2, 5-6", (0, 2, 5, 6)), ("7", (7,)), ("", ()), ("3,1", (1, 3))]
)
def test_partitions_are_ranges_and_numbers(text: str, partitions: tuple[int, ...]) -> None:
    assert read(KAFKA_PARTITIONS=text).kafka_partitions == partitions


@pytest.mark.parametrize("text", ["a", "3-1", "-2", "1-", "1-2-3"])
def test_other_partitions_are_refused(text: str) -> None:
    assert "KAFKA_PARTITIONS" in problems(KAFKA_PARTITIONS=text)


def test_any_librdkafka_property_can_be_set() -> None:
    settings = read(
        KAFKA_BOOTSTRAP_SERVERS="k:1", KAFKA_CONFIG_SASL_MECHANISMS="PLAIN", KAFKA_CONFIG_SECURITY_PROTOCOL="x"
    )
    assert settings.kafka == {"bootstrap.servers": "k:1", "sasl.mechanisms": "PLAIN", "security.protocol": "x"}


def test_postgresql_may_be_given_in_parts() -> None:
    parts = {"POSTGRES_HOST": "db", "POSTGRES_USER": "a b", "POSTGRES_PASSWORD": "p@:/", "POSTGRES_DB": "app"}
    assert Settings.from_env("postgres", env=parts).postgres == "postgresql://a%20b:p%40%3A%2F@db:5432/app"


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("redis://from-file\n")
    assert read(REDIS_URL_FILE=str(tmp_path / "url")).redis == "redis://from-file"
    assert "REDIS_URL_FILE" in problems(REDIS_URL_FILE=str(tmp_path / "absent"))
    assert "keep one" in problems(REDIS_URL="redis://r", REDIS_URL_FILE=str(tmp_path / "url"))


def test_redis_may_be_host_and_port_or_a_cluster() -> None:
    assert read(REDIS_HOST="r", REDIS_PORT="7").redis == "redis://r:7"
    assert read(REDIS_CLUSTER_NODES="a:1, b:2").redis == "redis://a:1"


@pytest.mark.parametrize("host", ["localhost:9050", "http://localhost:9050", "http://localhost:9050/"])
def test_the_emulator_may_have_a_scheme(host: str) -> None:
    assert read(BIGQUERY_EMULATOR_HOST=host).bigquery_emulator_host == "localhost:9050"


def test_exactly_once_cannot_be_switched_off() -> None:
    assert read(ENABLE_EXACTLY_ONCE="true").enable_exactly_once
    assert "ENABLE_EXACTLY_ONCE" in problems(ENABLE_EXACTLY_ONCE="false")


def test_lateness_is_at_least_the_window() -> None:
    assert "ALLOWED_LATENESS_SECONDS" in problems(ALLOWED_LATENESS_SECONDS="60")
    assert read(ALLOWED_LATENESS_SECONDS="60", REDIS_AGGREGATION_WINDOW_MINUTES="1").allowed_lateness_seconds == 60


def test_names_without_effect_are_found() -> None:
    assert ignored({"BATCH_SIZE": "5", "OTHER": "1"}) == ["BATCH_SIZE"]


def test_an_unknown_sink_is_refused() -> None:
    assert "SINKS" in problems(SINKS="redis,postgres")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", "redis-host:6379"),
        ("REDIS_URL", "http://:hunter2@redis:6379"),
        ("REDIS_URL", "redis://:hunter2@redis:port"),
        ("REDIS_CLUSTER_NODES", "node-a,node-b:6379"),
        ("DATABASE_URL", "db.example:5432/app"),
        ("DATABASE_URL", "postgresql+psycopg2://u:hunter2@db/app"),
        ("EXTERNAL_API_URL", "http://"),
        ("EXTERNAL_API_URL", "ftp://partner.example"),
        ("EXTERNAL_API_URL", "http://[::1"),
        ("EXTERNAL_API_URL", "http://partner.example:port/v1"),
        ("EXTERNAL_API_URL", "https://partner.example/v1 events"),
        ("EXTERNAL_API_TOKEN", "hunter2\nX-Admin: 1"),
        ("API_TOKEN", "hunter2é"),
        ("KAFKA_TOPIC_ENGAGEMENT_EVENTS", "engagement events"),
        ("KAFKA_TOPIC_DEAD_LETTERS", "a/b"),
    ],
)
def test_what_no_client_could_use_is_refused_with_the_rest(name: str, value: str) -> None:
    said = problems("kafka", sinks=False, **{name: value, "API_PORT": "eighty"})
    assert f"  {name}=" in said
    assert "API_PORT" in said
    assert "KAFKA_BOOTSTRAP_SERVERS" in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", "unix:///run/redis.sock"),
        ("REDIS_URL", "rediss://user:p%40@redis.example/2?ssl_cert_reqs=required"),
        ("REDIS_CLUSTER_NODES", "a:1, b:2"),
        ("DATABASE_URL", "postgres://u@db/app"),
        ("DATABASE_URL", "host=/run/postgresql dbname=app"),
        ("EXTERNAL_API_URL", "https://partner.example/v1/events?tenant=3"),
        ("EXTERNAL_API_URL", "http://[::1]:8081/"),
    ],
)
def test_every_spelling_that_the_clients_take_is_accepted(name: str, value: str) -> None:
    read(**{name: value})


def test_passwords_of_kafka_may_come_from_files_and_are_not_printed(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hunter2\n")
    settings = read(KAFKA_BOOTSTRAP_SERVERS="k:1", KAFKA_CONFIG_SASL_PASSWORD_FILE=str(tmp_path / "password"))
    assert settings.kafka == {"bootstrap.servers": "k:1", "sasl.password": "hunter2"}
    assert "hunter2" not in repr(settings)


def test_a_secret_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    assert "API_TOKEN_FILE" in problems(API_TOKEN_FILE=str(tmp_path / "token"))


def test_properties_that_librdkafka_refuses_are_among_the_rest() -> None:
    wrong = {
        "KAFKA_CONFIG_FOO_BAR": "1",
        "KAFKA_CONFIG_SECURITY_PROTOCOL": "bogus",
        "KAFKA_CONFIG_SASL_MECHANISM": "PLAIN",
        "KAFKA_CONFIG_FETCH_MIN_BYTES": "many",
    }
    said = problems("kafka", sinks=False, **{**wrong, "API_PORT": "eighty"})
    for name in ("KAFKA_CONFIG_FOO_BAR", "KAFKA_CONFIG_SECURITY_PROTOCOL", "KAFKA_CONFIG_FETCH_MIN_BYTES", "API_PORT"):
        assert f"  {name}" in said
    assert "KAFKA_CONFIG_SASL_MECHANISM" not in said
    tls = problems("kafka", KAFKA_CONFIG_SECURITY_PROTOCOL="SSL", KAFKA_CONFIG_SSL_CA_LOCATION="/certs/none")
    assert "  KAFKA_CONFIG_SSL_CA_LOCATION" in tls


def test_properties_that_librdkafka_takes_need_no_broker() -> None:
    taken = {
        "KAFKA_CONFIG_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_CONFIG_SASL_MECHANISM": "SCRAM-SHA-512",
        "KAFKA_CONFIG_SASL_USERNAME": "u",
        "KAFKA_CONFIG_SASL_PASSWORD": "p",
        "KAFKA_CONFIG_FETCH_MIN_BYTES": "1",
        "KAFKA_CONFIG_LINGER_MS": "5",
    }
    settings = Settings.from_env("kafka", env={"KAFKA_BOOTSTRAP_SERVERS": "k:1", **taken})
    assert settings.kafka["fetch.min.bytes"] == "1"


def test_the_environment_wins_over_the_file_also_where_one_names_a_secret_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("REDIS_URL=redis://from-dotenv\nAPI_TOKEN_FILE=absent\nKAFKA_TOPIC=t\n")
    (tmp_path / "url").write_text("redis://from-file")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setenv("REDIS_URL_FILE", str(tmp_path / "url"))
    monkeypatch.setenv("API_TOKEN", "hush")
    settings = Settings.from_env("redis")
    assert (settings.redis, settings.kafka_topic_engagement_events) == ("redis://from-file", "t")
    assert settings.api_token is not None


def test_a_user_in_the_partners_url_would_replace_the_token() -> None:
    said = problems(EXTERNAL_API_URL="https://me:hunter2@partner.example/")
    assert "EXTERNAL_API_TOKEN" in said
    assert "hunter2" not in said
