"""Requests made of the OpenAPI document, good ones and spoilt ones, for the HTTP door.

schemathesis (https://github.com/schemathesis/schemathesis) reads what the coordinator says of
itself and draws requests from it with hypothesis, always the same ones for a number of them. The
coordinator is a real one with a scripted target, behind its socket. Allowed is what the document
tells of, in the shape that it tells; no answer is one of a server that broke, and afterwards the
door serves as before.
"""

import asyncio
import collections
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.unit.coordinator.cluster import a_cluster
from tests.unit.coordinator.support import FakeTarget, says

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
_MODES = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
_SECONDS = 30.0
# Parameters that do not contradict each other.
_PLAIN = {"seed", "user", "stream", "temperature", "top_p", "stop", "presence_penalty", "n"}
_GOOD = {"messages": [{"role": "user", "content": "hi"}], "prompt": "hi"}
# Operations that answer with events if asked to, and what they continue.
_WITH_EVENTS = {"POST /v1/chat/completions": "messages", "POST /v1/completions": "prompt"}
_UNHEALTHY = list(HealthCheck)


@contextmanager
def a_door() -> Iterator[str]:
    """Serve on a thread of its own and give the address: schemathesis blocks."""
    is_up, stop = threading.Event(), threading.Event()
    address: list[str] = []

    async def serve() -> None:
        async with a_cluster() as cluster:
            await cluster.add_target(FakeTarget(script=says("abc")))
            address.append(cluster.address)
            is_up.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert is_up.wait(60), "the door did not open"
    try:
        yield address[0]
    finally:
        stop.set()
        thread.join(60)


def fuzz_openapi(num_requests: int, number: int = 0) -> dict[str, dict[str, int]]:
    """Return for each operation how many answers had which status.

    Raises whatever a check says of an answer, with the request that brought it.
    """
    with a_door() as address:
        document = httpx2.get(f"{address}/openapi.json", timeout=60).json()
        schema = schemathesis.openapi.from_dict(document)
        operations = [result.ok() for result in schema.get_all_operations()]
        share = max(1, num_requests // (len(_MODES) * len(operations)))
        counts = {}
        for operation in operations:
            outcomes: collections.Counter[str] = collections.Counter()
            # Without a body nothing can be wrong: every string is a good part of a path.
            for mode in _MODES if operation.body else _MODES[:1]:
                _ask(operation, mode, address, share, number, outcomes)
            if operation.label in _WITH_EVENTS:
                _ask_for_events(operation, address)
            counts[operation.label] = dict(outcomes)
        assert httpx2.get(f"{address}/v1/models", timeout=60).status_code == 200
    return counts


def _ask(
    operation: Any,
    mode: Any,
    address: str,
    num_requests: int,
    number: int,
    outcomes: collections.Counter[str],
) -> None:
    @seed(number)
    @settings(
        max_examples=num_requests,
        deadline=None,
        database=None,
        suppress_health_check=_UNHEALTHY,
        phases=(Phase.generate, Phase.shrink),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        if mode is schemathesis.GenerationMode.POSITIVE and isinstance(case.body, dict):
            case.body = _sensible(case.body)
        answer = case.call(base_url=address, timeout=_SECONDS)
        outcomes[str(answer.status_code)] += 1
        case.validate_response(answer, checks=CHECKS)

    ask()


def _ask_for_events(operation: Any, address: str) -> None:
    """Ask for an answer in events: whether draws do depends on what was drawn before."""
    key = _WITH_EVENTS[operation.label]
    body = {key: _GOOD[key], "model": "toy", "stream": True}
    case = operation.Case(body=body, media_type="application/json")
    answer = case.call(base_url=address, timeout=_SECONDS)
    assert answer.headers["content-type"][0].startswith("text/event-stream")
    assert "[DONE]" in answer.text
    case.validate_response(answer, checks=CHECKS)


def _sensible(body: dict[str, Any]) -> dict[str, Any]:
    """Return what a schema cannot say: a model that is served, and parameters that go together.

    A third of the bodies stay as they were drawn, of a third only the model is another.
    """
    kind = len(repr(body)) % 3
    if kind == 0:
        return body
    if kind == 1:
        return {**body, "model": "toy"}
    kept = {key: body[key] for key in body if key in _PLAIN}
    return {**kept, **{key: _GOOD[key] for key in _GOOD if key in body}, "model": "toy"}
