"""The requests of each tenant that run here or ended lately, to be looked at.

What a tenant may see is its own; so all is kept by tenant, and every question
names one. Numbers and names only, never a text. Bounded: of a tenant the last
requests are kept, and of tenants those that asked last.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from treedraft.coordinator.request import GenerationRequest

_MAX_RECENT = 100
_MAX_TENANTS = 256
# Whoever knows the whole id of a session may resume it, so only its beginning is shown.
_SHOWN_ID_CHARS = 8


@dataclass(frozen=True, slots=True)
class RequestView:
    """A request as its tenant may see it. `outcome` is empty while it runs.

    `began_at` is in seconds of the epoch; `target` is where it is or was last.
    `span_id` is that of the request's own span, below which all of it lies in its trace.
    """

    session: str
    trace_id: str
    span_id: str
    model: str
    outcome: str
    began_at: float
    seconds: float
    prompt_tokens: int
    output_tokens: int
    rounds: int
    accepted_tokens: int
    tokens_per_round: float
    target: str
    drafters: tuple[str, ...]
    num_moves: int


class RequestBook:
    """The requests of one coordinator."""

    def __init__(
        self,
        *,
        now: Callable[[], float] = time.time,
        max_recent: int = _MAX_RECENT,
        max_tenants: int = _MAX_TENANTS,
    ) -> None:
        """Keep `max_recent` ended requests of each of the last `max_tenants` tenants."""
        self._now = now
        self._max_recent = max_recent
        self._max_tenants = max_tenants
        self._running: dict[GenerationRequest, float] = {}
        self._recent: OrderedDict[str, deque[RequestView]] = OrderedDict()

    def enter(self, request: GenerationRequest) -> None:
        """Note a request that arrived."""
        self._running[request] = self._now()

    def leave(self, request: GenerationRequest) -> None:
        """Note that a request ended."""
        began_at = self._running.pop(request, None)
        if began_at is None:
            return
        name = request.tenant.name
        ended = self._recent.pop(name, None) or deque(maxlen=self._max_recent)
        ended.appendleft(_view(request, began_at, outcome=request.summary().outcome))
        self._recent[name] = ended
        while len(self._recent) > self._max_tenants:
            self._recent.popitem(last=False)

    def running(self, tenant: str) -> list[RequestView]:
        """Return the requests of a tenant that run, newest first."""
        views = [
            _view(request, began_at)
            for request, began_at in self._running.items()
            if request.tenant.name == tenant
        ]
        return views[::-1]

    def recent(self, tenant: str) -> list[RequestView]:
        """Return the requests of a tenant that ended lately, newest first."""
        return list(self._recent.get(tenant, ()))

    def spans_in(self, tenant: str, trace_id: str) -> frozenset[str]:
        """Return the spans of the tenant's requests here in a trace.

        A trace may hold requests of several tenants, since its id comes from the caller.
        """
        return frozenset(
            view.span_id
            for view in (*self.running(tenant), *self.recent(tenant))
            if trace_id and view.trace_id == trace_id
        )


def _view(request: GenerationRequest, began_at: float, outcome: str = "") -> RequestView:
    summary, counts = request.summary(), request.counts
    target, num_moves = request.session.whereabouts if request.session else ("", 0)
    return RequestView(
        session=summary.session_id[:_SHOWN_ID_CHARS],
        trace_id=summary.trace_id,
        span_id=request.span.span_id,
        model=summary.model,
        outcome=outcome,
        began_at=began_at,
        seconds=summary.seconds,
        prompt_tokens=summary.prompt_tokens,
        output_tokens=summary.output_tokens,
        rounds=counts.rounds,
        accepted_tokens=counts.accepted_nodes,
        tokens_per_round=counts.tokens_per_round,
        target=target,
        drafters=summary.drafters,
        num_moves=num_moves,
    )
