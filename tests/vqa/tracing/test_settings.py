"""Whether a process traces is said by OpenTelemetry's own variables."""

import pytest

from vqa.errors import SettingsError
from vqa.tracing.settings import exporter

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}

RATIO = {"OTEL_TRACES_SAMPLER": "traceidratio"}


@pytest.mark.parametrize(
    ("variables", "chosen"),
    [
        pytest.param({}, None, id="nothing"),
        pytest.param(ENDPOINT, "otlp", id="endpoint"),
        pytest.param({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a/v1/traces"}, "otlp", id="endpoint-of-traces"),
        pytest.param({"OTEL_TRACES_EXPORTER": "console"}, "console", id="console"),
        pytest.param(ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, None, id="none"),
        pytest.param(ENDPOINT | {"OTEL_SDK_DISABLED": "True"}, None, id="disabled"),
        pytest.param(ENDPOINT | RATIO | {"OTEL_TRACES_SAMPLER_ARG": "0.1"}, "otlp", id="share"),
    ],
)
def test_traces_are_sent_where_a_variable_asks_for_it(variables: dict[str, str], chosen: str | None) -> None:
    assert exporter(variables) == chosen


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"OTEL_TRACES_EXPORTER": "zipkin"}, id="exporter"),
        pytest.param({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, id="protocol"),
        pytest.param({"OTEL_TRACES_SAMPLER": "allways_on"}, id="sampler"),
        pytest.param(RATIO | {"OTEL_TRACES_SAMPLER_ARG": "10%"}, id="share"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_its_variable(wrong: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=f"{list(wrong)[-1]}={list(wrong.values())[-1]}"):
        exporter(ENDPOINT | wrong)
