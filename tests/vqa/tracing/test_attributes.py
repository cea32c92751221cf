"""Names of attributes are those of OpenTelemetry's semantic conventions."""

from opentelemetry.semconv._incubating.attributes import gen_ai_attributes, messaging_attributes
from opentelemetry.semconv.attributes import error_attributes, http_attributes, server_attributes

from vqa.tracing import attributes


def test_names_are_in_the_conventions_or_our_own() -> None:
    conventions = (gen_ai_attributes, messaging_attributes, error_attributes, http_attributes, server_attributes)
    known = {value for module in conventions for value in vars(module).values() if isinstance(value, str)}
    constants = {name: value for name, value in vars(attributes).items() if name.isupper() and isinstance(value, str)}
    named = {value for value in constants.values() if "." in value}
    assert {name for name in named if not name.startswith("vqa.")} <= known
    assert {"gen_ai.operation.name", "gen_ai.usage.input_tokens", "messaging.message.id"} <= named
    assert attributes.CHAT in {each.value for each in gen_ai_attributes.GenAiOperationNameValues}
