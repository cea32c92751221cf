"""The fields of KEDA's ScaledObject that our manifest uses or may come to use, as KEDA's documentation has them.

Written for this test: KEDA's own schema is only in its repository. `behavior` is that of Kubernetes's
HorizontalPodAutoscaler, whose schema checks it.
"""

from typing import Any

import jsonschema

_NUMBER = {"type": "integer", "minimum": 0}
_TEXT = {"type": "string", "minLength": 1}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


#: what the scaler `prometheus` reads; KEDA takes strings alone
_METADATA = _object(
    ["serverAddress", "query", "threshold"],
    serverAddress={"type": "string", "pattern": "^https?://"},
    query=_TEXT,
    threshold={"type": "string", "pattern": r"^\d+(\.\d+)?$"},
    activationThreshold={"type": "string", "pattern": r"^\d+(\.\d+)?$"},
    ignoreNullValues={"enum": ["true", "false"]},
    namespace=_TEXT,
    authModes=_TEXT,
    customHeaders=_TEXT,
    unsafeSsl={"enum": ["true", "false"]},
)
_TRIGGER = _object(
    ["type", "metadata"],
    type={"const": "prometheus"},
    name=_TEXT,
    metricType={"enum": ["AverageValue", "Value"]},
    metadata=_METADATA,
    authenticationRef=_object(["name"], name=_TEXT, kind=_TEXT),
    useCachedMetrics={"type": "boolean"},
)
SPEC = _object(
    ["scaleTargetRef", "triggers"],
    scaleTargetRef=_object(["name"], name=_TEXT, kind=_TEXT, apiVersion=_TEXT, envSourceContainerName=_TEXT),
    pollingInterval=_NUMBER,
    cooldownPeriod=_NUMBER,
    initialCooldownPeriod=_NUMBER,
    minReplicaCount=_NUMBER,
    maxReplicaCount=_NUMBER,
    advanced=_object(
        [],
        restoreToOriginalReplicaCount={"type": "boolean"},
        horizontalPodAutoscalerConfig=_object([], name=_TEXT, behavior={"type": "object"}),
    ),
    triggers={"type": "array", "minItems": 1, "items": _TRIGGER},
)


def check(scaled: dict[str, Any]) -> None:
    """Raise jsonschema.ValidationError if this is no ScaledObject."""
    assert scaled["apiVersion"] == "keda.sh/v1alpha1"
    jsonschema.validate(scaled["spec"], SPEC)


def autoscaler(scaled: dict[str, Any]) -> dict[str, Any]:
    """Return the HorizontalPodAutoscaler that KEDA makes of it, as far as its fields go."""
    spec = scaled["spec"]
    metrics = [
        {
            "type": "External",
            "external": {
                "metric": {"name": f"s{number}-prometheus"},
                "target": {"type": each["metricType"], _TARGETS[each["metricType"]]: each["metadata"]["threshold"]},
            },
        }
        for number, each in enumerate(spec["triggers"])
    ]
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": f"keda-hpa-{scaled['metadata']['name']}"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": spec["scaleTargetRef"]["name"]},
            "minReplicas": spec["minReplicaCount"],
            "maxReplicas": spec["maxReplicaCount"],
            "behavior": spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"],
            "metrics": metrics,
        },
    }


_TARGETS = {"AverageValue": "averageValue", "Value": "value"}
