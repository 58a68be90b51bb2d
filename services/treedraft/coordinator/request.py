"""One request on its way through the coordinator: its time, its span, its outcome."""

from collections.abc import AsyncGenerator, Callable

from treedraft.coordinator.audit import RequestSummary
from treedraft.coordinator.placement import Placement
from treedraft.coordinator.running_session import RunningSession
from treedraft.coordinator.tenant import ANONYMOUS, Tenant
from treedraft.core.errors import TreedraftError
from treedraft.core.generation import Finished, GenerateEvent, GenerateQuery, Started
from treedraft.core.session import FinishReason, SessionFinish, SessionSpec, SessionStatistics
from treedraft.telemetry import names
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.spans import AttributeValue, RequestSpan

_ABANDONED = "CANCELLED"
_PROVIDER = "treedraft"


class GenerationRequest:
    """A request, from its arrival to its end. `placement` and `session` are there once it runs.

    `model` is the one asked for, and from the start of the session the one that serves.
    """

    def __init__(
        self,
        span: RequestSpan,
        metrics: Metrics,
        clock: Callable[[], float],
        time_limit_seconds: float | None,
        tenant: Tenant = ANONYMOUS,
        *,
        model: str = "",
        is_prompt_charged: bool = True,
        is_kept: bool = True,
    ) -> None:
        """Arrive now; the prompt of an answer that is resumed was charged before.

        Without `is_kept` nobody will come back for an answer that its caller left.
        """
        self.tenant = tenant
        self.model = model
        self.span = span
        self.placement: Placement | None = None
        self.session: RunningSession | None = None
        self._is_prompt_charged = is_prompt_charged
        self._is_kept = is_kept
        self._spec: SessionSpec | None = None
        self._metrics = metrics
        self._clock = clock
        self._arrived_at = clock()
        self._ends_at = (
            None if time_limit_seconds is None else self._arrived_at + time_limit_seconds
        )
        self._last_token_at: float | None = None
        self._first_token_ms = 0.0
        self._num_output_tokens = 0
        self._finish: SessionFinish | None = None
        self._outcome: BaseException | str | None = _ABANDONED

    def time_left(self) -> float | None:
        """Return the seconds left, None without a deadline."""
        return None if self._ends_at is None else max(0.0, self._ends_at - self._clock())

    @property
    def num_tokens(self) -> int:
        """Tokens used so far: the prompt's, once a session runs, and those that came out."""
        return self._num_prompt_tokens + self._num_output_tokens

    @property
    def _num_prompt_tokens(self) -> int:
        return self._spec.prompt_length if self._spec and self._is_prompt_charged else 0

    def run(self, session: RunningSession, model: str) -> None:
        """Note the session that runs for the request, and what serves it."""
        self.session = session
        self.show(session.spec, model)

    def show(self, spec: SessionSpec, model: str) -> None:
        """Note the session that the request is about, which need not run."""
        self._spec, self.model = spec, model
        self.span.set(
            {
                names.ATTR_RESPONSE_ID: spec.session_id,
                names.ATTR_RESPONSE_MODEL: model,
                names.ATTR_INPUT_TOKENS: spec.prompt_length,
            }
        )

    def admitted(self) -> float:
        """Note that the waiting is over; return how long it took, in seconds."""
        waited = self._clock() - self._arrived_at
        self._metrics.session_started(waited)
        return waited

    def on_tokens(self, num_tokens: int) -> None:
        """Measure the arrival of tokens from the target."""
        now = self._clock()
        self._num_output_tokens += num_tokens
        if self._last_token_at is None:
            self._first_token_ms = (now - self._arrived_at) * 1000.0
            self.span.event(names.EVENT_FIRST_TOKEN)
            self._metrics.first_token(now - self._arrived_at)
            self._metrics.tokens_emitted(num_tokens)
        else:
            self._metrics.tokens_emitted(num_tokens, now - self._last_token_at)
        self._last_token_at = now

    async def answer(
        self, session: RunningSession, model: str
    ) -> AsyncGenerator[GenerateEvent, None]:
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
        self._finish = finish
        self._metrics.session_finished(finish.reason, self._clock() - self._arrived_at)
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

    @property
    def counts(self) -> SessionStatistics:
        """What came out so far; all of it once the session has finished."""
        if self._finish is not None:
            return self._finish.statistics
        return self.session.counts if self.session else SessionStatistics()

    def fail(self, error: Exception) -> None:
        """Note that the request was refused or its session failed."""
        self._outcome = error
        reason = error.reason if isinstance(error, TreedraftError) else TreedraftError.reason
        self._metrics.session_failed(reason)

    @property
    def is_abandoned(self) -> bool:
        """Whether the caller left before there was an outcome."""
        return self._outcome == _ABANDONED

    @property
    def may_be_resumed(self) -> bool:
        """Whether the caller left an answer that it may come back for."""
        return self.is_abandoned and self._is_kept

    @property
    def error(self) -> Exception | None:
        """What the request was refused with or its session failed with."""
        return self._outcome if isinstance(self._outcome, Exception) else None

    def repeat(self) -> None:
        """Note that the request was made before, and its prompt charged then."""
        self._is_prompt_charged = False

    def end(self) -> None:
        """End the span; a request that neither finished nor failed was abandoned."""
        if self.is_abandoned:
            self._metrics.session_finished(FinishReason.CANCELLED, self._clock() - self._arrived_at)
        self.span.end(self._outcome)

    def summary(self) -> RequestSummary:
        """Return what may be written down of the request: who, how much, never what."""
        spec = self._spec
        counts = self._finish.statistics if self._finish else None
        return RequestSummary(
            tenant=self.tenant.name,
            session_id=spec.session_id if spec else "",
            trace_id=self.span.trace_id,
            model=self.model,
            drafters=tuple(drafter.worker_id for drafter in spec.drafters) if spec else (),
            outcome=self._outcome_word(),
            prompt_tokens=self._num_prompt_tokens,
            output_tokens=self._num_output_tokens,
            drafted_tokens=counts.drafted_nodes if counts else None,
            accepted_tokens=counts.accepted_nodes if counts else None,
            rejected_tokens=counts.admitted_nodes - counts.accepted_nodes if counts else None,
            seconds=round(self._clock() - self._arrived_at, 3),
        )

    def _outcome_word(self) -> str:
        if self._finish is not None:
            return self._finish.reason.value
        if isinstance(self._outcome, TreedraftError):
            return self._outcome.reason
        return FinishReason.CANCELLED.value if self.is_abandoned else TreedraftError.reason


def request_attributes(query: GenerateQuery) -> dict[str, AttributeValue]:
    """Return what a span may say of a request: parameters, never its content."""
    sampling = query.sampling
    attributes: dict[str, AttributeValue] = {
        names.ATTR_OPERATION: "text_completion" if query.conversation is None else "chat",
        names.ATTR_PROVIDER: _PROVIDER,
        names.ATTR_REQUEST_MODEL: query.model,
        names.ATTR_TEMPERATURE: sampling.temperature,
        names.ATTR_TOP_K: sampling.top_k,
        names.ATTR_TOP_P: sampling.top_p,
        names.ATTR_PRESENCE_PENALTY: sampling.presence_penalty,
        names.ATTR_FREQUENCY_PENALTY: sampling.frequency_penalty,
        names.ATTR_VERIFICATION: sampling.verification.value,
    }
    if query.stopping.max_tokens is not None:
        attributes[names.ATTR_MAX_TOKENS] = query.stopping.max_tokens
    return attributes
