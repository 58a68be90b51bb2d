"""What routes say of themselves in the API reference, beyond their bodies."""

from typing import Any

from treedraft.coordinator.http.answer_bodies import (
    Answered,
    ChatChunk,
    CompletionChunk,
    ErrorAnswer,
)
from treedraft.core.generation import MAX_IDEMPOTENCY_KEY_CHARS

_SCHEMA = "#/components/schemas/{model}"

Responses = dict[int | str, dict[str, Any]]

ERRORS: Responses = {
    "4XX": {"model": ErrorAnswer, "description": "The request cannot be served as it is."},
    "5XX": {"model": ErrorAnswer, "description": "It cannot be served now."},
}


def answers_of(whole: type[Answered]) -> Responses:
    """Return the responses of a route that answers with one object."""
    return {200: {"model": whole, "description": "The answer."}, **ERRORS}


def events_of(chunk: type[Answered], whole: type[Answered] | None = None) -> Responses:
    """Return the responses of a route that answers with events, and with one object if it may.

    Args:
        chunk: what the data of an event is.
        whole: the one object.
    """
    models = (chunk.__name__, ErrorAnswer.__name__)
    payload = {
        "contentMediaType": "application/json",
        "contentSchema": {"anyOf": [{"$ref": _SCHEMA.format(model=name)} for name in models]},
    }
    # Before version 3.2 of OpenAPI the schema of an event stream is that of each event.
    event = {
        "type": "object",
        "properties": {"data": {"type": "string", "anyOf": [payload, {"const": "[DONE]"}]}},
        "required": ["data"],
        "description": "Events with such an object or an `ErrorAnswer` as their data, then "
        "`[DONE]`. Lines that begin with a colon are signs of life.",
    }
    stream = {"text/event-stream": {"schema": event}}
    told: dict[str, Any] = {"description": "The answer.", "content": stream}
    if whole is not None:
        told["model"] = whole
    return {200: told, **ERRORS}


def parameters(*wanted: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a route's description that tells of parameters besides its body."""
    return {"parameters": list(wanted)}


IDEMPOTENCY_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "maxLength": MAX_IDEMPOTENCY_KEY_CHARS},
    "description": "A request that was made before under this key is given the same answer. "
    "Hanging up leaves its sessions running for a while.",
}
LAST_EVENT_ID: dict[str, Any] = {
    "name": "Last-Event-ID",
    "in": "header",
    "schema": {"type": "string"},
    "description": "The last event that was seen; without it the answer is told from its start.",
}
INCLUDE_USAGE: dict[str, Any] = {
    "name": "include_usage",
    "in": "query",
    "schema": {"type": "boolean", "default": False},
    "description": "Whether counts come with the last event.",
}


def add_event_schemas(document: dict[str, Any]) -> None:
    """Add what events are made of to a document: FastAPI knows of whole answers only."""
    schemas = document["components"]["schemas"]
    for chunk in (ChatChunk, CompletionChunk):
        schema = chunk.model_json_schema(ref_template=_SCHEMA)
        schemas |= schema.pop("$defs")
        schemas[chunk.__name__] = schema
