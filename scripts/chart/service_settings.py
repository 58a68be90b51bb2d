"""The settings of the services as the chart offers them: all but what it sets itself."""

from typing import Any

from treedraft.autoscaler.settings import AutoscalerSettings
from treedraft.coordinator.settings import CoordinatorSettings
from treedraft.draft.settings import DraftSettings
from treedraft.settings import ServiceSettings
from treedraft.target.settings import TargetSettings

SERVICES: dict[str, type[ServiceSettings]] = {
    "coordinator": CoordinatorSettings,
    "target": TargetSettings,
    "draft": DraftSettings,
    "autoscaler": AutoscalerSettings,
}

# Set by the templates from other values, or from what Kubernetes knows of a pod.
_OWNED_BY_ALL = (
    "grpc.host",
    "grpc.port",
    "grpc.advertise",
    "grpc.endpoint_file",
    "grpc.health_port",
    "grpc.grace_seconds",
    "tls",
    "telemetry.otlp_endpoint",
    "telemetry.sample_ratio",
    "telemetry.log_level",
    "telemetry.log_format",
    "telemetry.metrics_host",
    "telemetry.metrics_port",
    "telemetry.store_path",
)
_OWNED_BY_WORKERS = (
    "model",
    "model_name",
    "worker.worker_id",
    "worker.coordinators",
    "worker.pool",
    "worker.weight",
)
OWNED = {
    "coordinator": (
        *_OWNED_BY_ALL,
        "redis",
        "coordinator_id",
        "drain_seconds",
        "door.keys_file",
        "door.tenant_secret_file",
        "http.enabled",
        "http.host",
        "http.port",
        "http.advertise",
        "http.address_file",
    ),
    "target": (*_OWNED_BY_ALL, *_OWNED_BY_WORKERS, "drain_seconds"),
    "draft": (*_OWNED_BY_ALL, *_OWNED_BY_WORKERS),
    "autoscaler": (
        *_OWNED_BY_ALL,
        "coordinators",
        "namespace",
        "pools",
        "api_key_file",
        "leader.lease_name",
    ),
}


def settings_schema(service: str) -> dict[str, Any]:
    """Return the JSON schema of what may be set, with everything in it written out."""
    schema = SERVICES[service].model_json_schema()
    whole = resolve(schema, schema.get("$defs", {}))
    whole.pop("$defs", None)
    for name in OWNED[service]:
        _remove(whole, name.split("."))
    return whole


def resolve(node: Any, definitions: dict[str, Any]) -> Any:
    """Return a schema with its references replaced by what they name."""
    if isinstance(node, list):
        return [resolve(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if reference := node.get("$ref"):
        named = resolve(definitions[reference.rsplit("/", 1)[-1]], definitions)
        return {**named, **{key: value for key, value in node.items() if key != "$ref"}}
    return {key: resolve(value, definitions) for key, value in node.items()}


def _remove(schema: dict[str, Any], path: list[str]) -> None:
    properties = schema["properties"]
    if len(path) == 1:
        del properties[path[0]]  # a KeyError here is a setting that is no more
        return
    _remove(properties[path[0]], path[1:])
    if not properties[path[0]]["properties"]:
        del properties[path[0]]
