import pytest

from vqa import Job, RetryPolicy, SettingsError
from vqa.flower_settings import FlowerSettings
from vqa.settings import QueueSettings


def test_a_name_that_is_no_setting_stops_the_process_and_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQA_REDIS_URI", "redis://localhost")
    with pytest.raises(SettingsError, match=r"VQA_REDIS_URI is not a setting.*VQA_REDIS_URL"):
        QueueSettings()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("VQA_MODLE", "VQA_MODEL"),
        ("vqa_slot", "VQA_SLOTS"),
        ("VQA_LOGLEVEL", "VQA_LOG_LEVEL"),
        ("VQA_MICRO_BATCH", "VQA_MICROBATCH"),
        ("VQA_IMAGE_BYTES", "VQA_IMAGE_MAX_BYTES"),
        ("VQA_BULK_TIME", "VQA_BULK_TIMEOUT_S"),
        # alike only by their prefix, or by a word
        ("VQA_FOO", None),
        ("VQA_DEBUG", None),
        ("VQA_GPUS", None),
        ("VQA_HOST", None),
        ("VQA_WORKERS", None),
        ("VQA_API_KEY", None),
    ],
)
def test_a_name_is_guessed_only_where_it_is_near(monkeypatch: pytest.MonkeyPatch, name: str, meant: str | None) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError) as caught:
        QueueSettings()
    hint = f"did you mean {meant}?" if meant else "`vqa settings` lists the names"
    assert str(caught.value) == f"{name} is not a setting of vqa; {hint}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VQA_REDIS_URL", "localhost:6379"),
        ("VQA_REDIS_URL", "redis://localhost:port/0"),
        ("VQA_REDIS_URL", "redis://localhost:99999/0"),
        ("VQA_REDIS_URL", "redis://localhost/zero"),
        ("VQA_LEASE_S", "soon"),
        ("VQA_LEASE_S", "inf"),
        ("VQA_BULK_TIMEOUT_S", "3456000"),
        ("VQA_RESULT_TTL_S", "-1"),
        ("VQA_BULK_RETRY", '{"tries": 3}'),
        ("VQA_BULK_RETRY", "3 times"),
    ],
)
def test_a_bad_value_stops_the_process_and_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        QueueSettings()


def test_flowers_password_is_refused_by_the_name_of_its_variable_and_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VQA_FLOWER_PASSWORD", "short")
    QueueSettings()
    with pytest.raises(SettingsError, match="VQA_FLOWER_PASSWORD") as caught:
        FlowerSettings()
    assert "short" not in str(caught.value)


def test_a_name_of_a_worker_is_no_error_at_a_producer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQA_SLOTS", "16")
    QueueSettings()


def test_a_job_that_names_no_timeout_or_retries_gets_its_lanes() -> None:
    settings = QueueSettings(bulk_timeout_s=7.0, bulk_retry=RetryPolicy(attempts=9))
    job = Job(messages=[{"role": "user", "content": "?"}], lane="bulk")
    resolved = settings.resolved(job)
    assert (resolved.timeout_s, resolved.retry) == (7.0, RetryPolicy(attempts=9))
    own = settings.resolved(job.model_copy(update={"timeout_s": 1.0, "retry": RetryPolicy(attempts=1)}))
    assert (own.timeout_s, own.retry) == (1.0, RetryPolicy(attempts=1))
