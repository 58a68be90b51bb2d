"""One request on its way through the coordinator: its time, its span, its outcome."""

from collections.abc import AsyncIterator, Callable

from treedraft.coordinator.running_session import RunningSession
from treedraft.core.errors import TreedraftError
from treedraft.core.generation import Finished, GenerateEvent, GenerateQuery, Started
from treedraft.core.session import FinishReason, SessionFinish
from treedraft.telemetry import names
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.tracing import AttributeValue, RequestSpan

_ABANDONED = "CANCELLED"


class GenerationRequest:
    """A request, from its arrival to its end. `session` is there once it runs."""

    def __init__(
        self,
        span: RequestSpan,
        metrics: Metrics,
        clock: Callable[[], float],
        time_limit_seconds: float | None,
    ) -> None:
        """Arrive now."""
        self.span = span
        self.session: RunningSession | None = None
        self._metrics = metrics
        self._clock = clock
        self._arrived_at = clock()
        self._ends_at = (
            None if time_limit_seconds is None else self._arrived_at + time_limit_seconds
        )
        self._last_token_at: float | None = None
        self._first_token_ms = 0.0
        self._outcome: BaseException | str | None = _ABANDONED

    def time_left(self) -> float | None:
        """Return the seconds left, None without a deadline."""
        return None if self._ends_at is None else max(0.0, self._ends_at - self._clock())

    def admitted(self) -> float:
        """Note that the waiting is over; return how long it took, in seconds."""
        waited = self._clock() - self._arrived_at
        self._metrics.session_started(waited)
        return waited

    def on_tokens(self, num_tokens: int) -> None:
        """Measure the arrival of tokens from the target."""
        now = self._clock()
        if self._last_token_at is None:
            self._first_token_ms = (now - self._arrived_at) * 1000.0
            self.span.event(names.EVENT_FIRST_TOKEN)
            self._metrics.first_token(now - self._arrived_at)
            self._metrics.tokens_emitted(num_tokens)
        else:
            self._metrics.tokens_emitted(num_tokens, now - self._last_token_at)
        self._last_token_at = now

    async def answer(self, session: RunningSession, model: str) -> AsyncIterator[GenerateEvent]:
        """Yield what the client gets of a session that runs."""
        spec = session.spec
        yield Started(
            session_id=spec.session_id,
            seed=spec.sampling.seed or 0,
            prompt_token_ids=spec.token_ids,
            trace_id=self.span.trace_id,
            model=model,
        )
        async for event in session.events(self.time_left):
            yield self.finish(event) if isinstance(event, SessionFinish) else event

    def finish(self, finish: SessionFinish) -> Finished:
        """Note the good end and return the client's last event."""
        self._outcome = None
        self._metrics.session_finished(finish.reason)
        statistics = finish.statistics
        self.span.set(
            {
                names.ATTR_FINISH_REASONS: [finish.reason.value],
                names.ATTR_OUTPUT_TOKENS: statistics.emitted_tokens,
                names.ATTR_NUM_ROUNDS: statistics.rounds,
                names.ATTR_TOKENS_PER_ROUND: statistics.tokens_per_round,
            }
        )
        return Finished(finish.reason, statistics, self._first_token_ms)

    def fail(self, error: Exception) -> None:
        """Note that the request was refused or its session failed."""
        self._outcome = error
        reason = error.reason if isinstance(error, TreedraftError) else TreedraftError.reason
        self._metrics.session_failed(reason)

    def end(self) -> None:
        """End the span; a request that neither finished nor failed was abandoned."""
        if self._outcome == _ABANDONED:
            self._metrics.session_finished(FinishReason.CANCELLED)
        self.span.end(self._outcome)


def request_attributes(query: GenerateQuery) -> dict[str, AttributeValue]:
    """Return what a span may say of a request: parameters, never its content."""
    sampling = query.sampling
    attributes: dict[str, AttributeValue] = {
        names.ATTR_OPERATION: "text_completion" if query.conversation is None else "chat",
        names.ATTR_REQUEST_MODEL: query.model,
        names.ATTR_TEMPERATURE: sampling.temperature,
        names.ATTR_TOP_K: sampling.top_k,
        names.ATTR_TOP_P: sampling.top_p,
        names.ATTR_VERIFICATION: sampling.verification.value,
    }
    if query.stopping.max_tokens is not None:
        attributes[names.ATTR_MAX_TOKENS] = query.stopping.max_tokens
    return attributes
