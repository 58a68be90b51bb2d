"""What is let in: so many requests at once, so many waiting, none that cannot be served.

The gate is first come, first served and bounded on both sides of the door, so
that overload shows as a clear refusal instead of growing memory. The checks
compare a prompt with the model that is to continue it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from treedraft.coordinator.model_index import ServedTarget
from treedraft.core.errors import (
    CancelledError,
    InvalidRequestError,
    OverloadedError,
    PromptTooLongError,
    UnavailableError,
)
from treedraft.core.model_description import ModelDescription
from treedraft.core.sampling import SamplingParameters, StoppingCriteria, check_grammar_ends
from treedraft.text.grammar import check_grammar

DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
TOKEN_OUT_OF_RANGE = "TOKEN_OUT_OF_RANGE"


class AdmissionGate:
    """Lets a bounded number of requests through and a bounded number wait."""

    def __init__(self, *, max_running: int, max_waiting: int) -> None:
        """Start open and empty."""
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._num_running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_closed = False
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @property
    def num_running(self) -> int:
        """Requests that are in."""
        return self._num_running

    @property
    def num_waiting(self) -> int:
        """Requests before the door."""
        return len(self._waiting)

    @asynccontextmanager
    async def enter(self, time_limit_seconds: float | None = None) -> AsyncIterator[None]:
        """Be in for the time of the context.

        Raises:
            OverloadedError: too many wait (QUEUE_FULL).
            CancelledError: the time was up before there was room (DEADLINE_EXCEEDED).
            UnavailableError: the gate is closed (DRAINING).
        """
        await self._acquire(time_limit_seconds)
        try:
            yield
        finally:
            self._release()

    async def close(self) -> None:
        """Let nobody in any more, send away who waits, and wait until all are out."""
        self._is_closed = True
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(self._draining())
        await self._is_idle.wait()

    async def _acquire(self, time_limit_seconds: float | None) -> None:
        if self._is_closed:
            raise self._draining()
        if self._num_running < self._max_running:
            self._admit_one()
            return
        if len(self._waiting) >= self._max_waiting:
            raise OverloadedError(
                f"{len(self._waiting)} requests wait already", reason="QUEUE_FULL"
            )
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(time_limit_seconds):
                await waiter
        except TimeoutError as error:
            self._give_up(waiter)
            raise CancelledError(
                "the time was up before there was room", reason=DEADLINE_EXCEEDED
            ) from error
        except asyncio.CancelledError:
            self._give_up(waiter)
            raise

    def _give_up(self, waiter: asyncio.Future[None]) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)
        elif waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            # Let in at the very moment of leaving: hand the place on.
            self._release()

    def _admit_one(self) -> None:
        self._num_running += 1
        self._is_idle.clear()

    def _release(self) -> None:
        self._num_running -= 1
        while self._waiting and self._num_running < self._max_running:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._admit_one()
                waiter.set_result(None)
        if self._num_running == 0:
            self._is_idle.set()

    @staticmethod
    def _draining() -> UnavailableError:
        return UnavailableError("the coordinator is going away", reason="DRAINING")


def roomiest(targets: Sequence[ServedTarget]) -> ModelDescription:
    """Return the description of the target that takes the longest prompts."""
    return max(
        (known.description for _, known in targets),
        key=lambda model: min(model.context_length - 1, model.max_prompt_tokens),
    )


def check_prompt(
    token_ids: Sequence[int], model: ModelDescription, *, max_prompt_tokens: int = 0
) -> None:
    """Raise unless the model can continue this prompt by one token at least.

    Args:
        token_ids: the prompt.
        model: what is to continue it.
        max_prompt_tokens: a limit of our own; 0 for none.

    Raises:
        InvalidRequestError: EMPTY_PROMPT or TOKEN_OUT_OF_RANGE.
        PromptTooLongError: beyond context, KV pool or our own limit.
    """
    if not token_ids:
        raise InvalidRequestError("the prompt is empty", field="input", reason="EMPTY_PROMPT")
    limits = [model.context_length - 1, model.max_prompt_tokens]
    if max_prompt_tokens:
        limits.append(max_prompt_tokens)
    if len(token_ids) > min(limits):
        raise PromptTooLongError(
            f"the prompt has {len(token_ids)} tokens, {model.model} takes {min(limits)}",
            field="input",
        )
    _check_ids((min(token_ids), max(token_ids)), model, "input")


async def check_law(
    sampling: SamplingParameters, stopping: StoppingCriteria, model: ModelDescription
) -> None:
    """Raise unless all that the parameters name can be followed.

    Raises:
        InvalidRequestError: TOKEN_OUT_OF_RANGE, INVALID_GRAMMAR or GRAMMAR_CONFLICT.
    """
    check_parameters(sampling, stopping, model)
    check_grammar_ends(sampling, stopping)
    if sampling.grammar is not None:
        # Reading a large one takes milliseconds, which the streams of others need not wait.
        await asyncio.to_thread(check_grammar, sampling.grammar)


def check_parameters(
    sampling: SamplingParameters, stopping: StoppingCriteria, model: ModelDescription
) -> None:
    """Raise unless all token ids that the parameters name are in the vocabulary.

    Raises:
        InvalidRequestError: TOKEN_OUT_OF_RANGE.
    """
    _check_ids([token_id for token_id, _ in sampling.logit_bias], model, "logit_bias")
    _check_ids(sorted(stopping.stop_token_ids), model, "stop_token_ids")


def _check_ids(token_ids: Sequence[int], model: ModelDescription, field: str) -> None:
    for token_id in token_ids:
        if not 0 <= token_id < model.vocab_size:
            raise InvalidRequestError(
                f"token {token_id} is outside the vocabulary of {model.vocab_size}",
                field=field,
                reason=TOKEN_OUT_OF_RANGE,
            )


def limit_output(
    stopping: StoppingCriteria,
    prompt_length: int,
    model: ModelDescription,
    *,
    default_max_tokens: int = 0,
) -> StoppingCriteria:
    """Return the criteria with a length that the context holds."""
    room = model.context_length - prompt_length
    wanted = stopping.max_tokens or default_max_tokens or room
    return replace(stopping, max_tokens=min(wanted, room))
