"""What the environment names is used; the rest is the demo's own."""

from demo.systems import Systems, external, run_folder


def systems(tmp_path, env):
    return Systems(tmp_path, tmp_path / "logs", dict(env))


def test_without_names_every_system_is_our_own(tmp_path):
    assert set(systems(tmp_path, {}).servers) == {"kafka", "postgres", "redis", "bigquery"}


def test_a_named_system_is_not_started(tmp_path):
    env = {"KAFKA_BOOTSTRAP_SERVERS": "broker:9092", "POSTGRES_HOST": "db", "REDIS_HOST": "cache"}
    assert set(systems(tmp_path, env).servers) == {"bigquery"}
    assert external({**env, "EXTERNAL_API_URL": "https://partner"}) == {"kafka", "postgres", "redis", "partner"}


def test_an_empty_variable_names_nothing():
    assert external({"REDIS_URL": ""}) == set()


def test_what_would_change_a_process_s_job_is_not_passed_on(tmp_path):
    ours = systems(tmp_path, {"SINKS": "redis", "KAFKA_PARTITIONS": "0", "LOG_LEVEL": "DEBUG"})
    assert ours.env == {"LOG_LEVEL": "DEBUG"}


def test_other_systems_have_another_folder(tmp_path):
    assert run_folder(tmp_path, {}) == tmp_path
    one = run_folder(tmp_path, {"REDIS_URL": "redis://a"})
    assert one.parent == tmp_path
    assert one != run_folder(tmp_path, {"REDIS_URL": "redis://b"})
    assert one == run_folder(tmp_path, {"REDIS_URL": "redis://a", "LOG_LEVEL": "INFO"})
