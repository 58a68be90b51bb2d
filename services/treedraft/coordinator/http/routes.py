"""OpenAI's routes: `/v1/chat/completions`, `/v1/completions`, `/v1/models`."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from treedraft.coordinator.choices import merged
from treedraft.coordinator.http.answer_bodies import (
    ChatAnswer,
    ChatChunk,
    CompletionAnswer,
    CompletionChunk,
    ModelList,
    ModelObject,
)
from treedraft.coordinator.http.answers import (
    AnswerOptions,
    AnswerState,
    IndexedEvent,
    PromptWords,
    whole_answer,
)
from treedraft.coordinator.http.bodies import ChatBody, CompletionBody, GenerationBody
from treedraft.coordinator.http.event_ids import resume_query, tells_end
from treedraft.coordinator.http.grammars import grammar_param
from treedraft.coordinator.http.queries import chat_queries, completion_queries, repeatable
from treedraft.coordinator.http.reference import (
    ERRORS,
    IDEMPOTENCY_KEY,
    INCLUDE_USAGE,
    LAST_EVENT_ID,
    answers_of,
    events_of,
    parameters,
)
from treedraft.coordinator.http.responses import EventStreamResponse, end, while_connected
from treedraft.coordinator.http.shapes import CHAT, COMPLETION, AnswerShape
from treedraft.coordinator.http.streams import AnswerStream
from treedraft.coordinator.use_cases import Caller, UseCases
from treedraft.core.errors import InvalidRequestError, UnknownModelError
from treedraft.core.generation import GenerateQuery, ServedModel, Started

FirstEvents = asyncio.Future[list[IndexedEvent]]

_BEARER = "bearer "


def caller_of(request: Request) -> Caller:
    """Return who asks, by the headers of a request."""
    credentials = request.headers.get("authorization", "")
    is_bearer = credentials.lower().startswith(_BEARER)
    return Caller(
        api_key=credentials[len(_BEARER) :].strip() if is_bearer else "",
        traceparent=request.headers.get("traceparent", ""),
    )


class CompletionRoutes:
    """Answers completions of both shapes by the use-cases."""

    def __init__(
        self,
        use_cases: UseCases,
        heartbeat_seconds: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take the time of answers from `clock`, seconds of the epoch.

        No stream is silent for longer than `heartbeat_seconds`, unless that is 0.
        """
        self._use_cases = use_cases
        self._heartbeat_seconds = heartbeat_seconds
        self._clock = clock

    async def chat(self, body: ChatBody, request: Request) -> Response:
        """Continue a conversation."""
        return await self._answer(request, body, chat_queries(body), CHAT)

    async def complete(self, body: CompletionBody, request: Request) -> Response:
        """Continue plain text or token ids."""
        queries = completion_queries(body)
        return await self._answer(request, body, queries, COMPLETION, is_echo=bool(body.echo))

    async def _answer(
        self,
        request: Request,
        body: GenerationBody,
        queries: Sequence[GenerateQuery],
        shape: AnswerShape,
        *,
        is_echo: bool = False,
    ) -> Response:
        caller = caller_of(request)
        key = request.headers.get("idempotency-key", "")
        queries, options = repeatable(queries, key), _options(body, queries)
        words = PromptWords(
            tuple(await self._prompt_texts(queries, caller)) if is_echo else (),
            await self._use_cases.token_bytes(queries[0].model, caller)
            if options.has_logprobs
            else None,
        )
        state = AnswerState(shape, options, int(self._clock()), words)
        is_kept = options.is_resumable or bool(key)  # to be asked for again
        events = self._use_cases.generate_choices(queries, caller, is_kept=is_kept)
        try:
            if not body.stream:
                answer = whole_answer(events, state)
                return JSONResponse(await while_connected(request, answer))
            first = await while_connected(request, self._first_events(events))
        except InvalidRequestError as error:
            if error.field != "grammar":
                raise
            param = grammar_param(body)
            raise InvalidRequestError(error.message, field=param, reason=error.reason) from error
        return self._stream(state, first, events)

    def _stream(
        self, state: AnswerState, first: FirstEvents, events: AsyncGenerator[IndexedEvent, None]
    ) -> Response:
        async def close() -> None:
            await end(first)
            await events.aclose()

        frames = AnswerStream(state).frames(_chain(first, events))
        return EventStreamResponse(frames, close, heartbeat_seconds=self._heartbeat_seconds)

    async def _first_events(self, events: AsyncGenerator[IndexedEvent, None]) -> FirstEvents:
        """Return what reads the first events: done, unless they take too long to be waited for.

        So a request that its target refuses still gets a status that says so.
        """
        first = asyncio.ensure_future(_up_to_promise(events))
        try:
            await asyncio.wait({first}, timeout=self._heartbeat_seconds or None)
        except asyncio.CancelledError:
            await end(first)
            raise
        if first.done():
            first.result()
        return first

    async def resume_chat(self, completion_id: str, request: Request) -> Response:
        """Go on with a conversation whose stream broke, after the event that was seen last."""
        return await self._resume(request, completion_id, CHAT)

    async def resume_completion(self, completion_id: str, request: Request) -> Response:
        """Go on with a completion whose stream broke, after the event that was seen last."""
        return await self._resume(request, completion_id, COMPLETION)

    async def _resume(self, request: Request, completion_id: str, shape: AnswerShape) -> Response:
        last_event_id = request.headers.get("last-event-id", "")
        query = resume_query(completion_id.removeprefix(shape.id_prefix), last_event_id)
        options = AnswerOptions(
            has_usage=request.query_params.get("include_usage") == "true",
            is_resumable=True,
            is_resumed=bool(query.num_tokens),
            has_closing_text=tells_end(last_event_id),
        )
        events = merged([self._use_cases.resume(query, caller_of(request))])
        first = await while_connected(request, self._first_events(events))
        return self._stream(AnswerState(shape, options, int(self._clock())), first, events)

    async def _prompt_texts(self, queries: Sequence[GenerateQuery], caller: Caller) -> list[str]:
        return [
            await self._use_cases.decode(query.model, query.token_ids or (), caller)
            if query.text is None
            else query.text
            for query in queries
        ]


def openai_routes(use_cases: UseCases, heartbeat_seconds: float = 0.0) -> APIRouter:
    """Return the routes; no stream is silent for longer than that, unless it is 0."""
    completions = CompletionRoutes(use_cases, heartbeat_seconds)
    router = APIRouter(prefix="/v1", tags=["OpenAI"])
    router.post(
        "/chat/completions",
        summary="Chat completion",
        response_model=None,
        responses=events_of(ChatChunk, ChatAnswer),
        openapi_extra=parameters(IDEMPOTENCY_KEY),
    )(completions.chat)
    router.post(
        "/completions",
        summary="Completion",
        response_model=None,
        responses=events_of(CompletionChunk, CompletionAnswer),
        openapi_extra=parameters(IDEMPOTENCY_KEY),
    )(completions.complete)

    for path, summary, chunk, resume in (
        ("chat/completions", "chat completion", ChatChunk, completions.resume_chat),
        ("completions", "completion", CompletionChunk, completions.resume_completion),
    ):
        router.get(
            f"/{path}/{{completion_id}}/stream",
            summary=f"The rest of a {summary}",
            response_model=None,
            response_class=Response,
            responses=events_of(chunk),
            openapi_extra=parameters(LAST_EVENT_ID, INCLUDE_USAGE),
        )(resume)

    @router.delete(
        "/sessions/{session_id}", summary="Cancels a session", status_code=204, responses=ERRORS
    )
    async def cancel(session_id: str, request: Request) -> None:
        for shape in (CHAT, COMPLETION):
            session_id = session_id.removeprefix(shape.id_prefix)
        await use_cases.cancel(session_id, caller_of(request))

    @router.get("/models", summary="Models served", responses=answers_of(ModelList))
    async def list_models(request: Request) -> dict[str, Any]:
        models = await use_cases.list_models(caller_of(request))
        return {"object": "list", "data": [_model_object(model) for model in models]}

    @router.get("/models/{model:path}", summary="One model", responses=answers_of(ModelObject))
    async def get_model(model: str, request: Request) -> dict[str, Any]:
        for served in await use_cases.list_models(caller_of(request)):
            if served.model == model:
                return _model_object(served)
        raise UnknownModelError(f"no target serves {model}", field="model")

    return router


def _options(body: GenerationBody, queries: Sequence[GenerateQuery]) -> AnswerOptions:
    stream = body.stream_options
    return AnswerOptions(
        num_choices=len(queries),
        choices_per_prompt=body.n or 1,
        has_token_ids=bool(body.return_token_ids),
        has_logprobs=queries[0].num_logprobs is not None,
        has_usage=bool(stream and stream.include_usage),
        has_continuous_usage=bool(stream and stream.continuous_usage_stats),
        is_resumable=_is_resumable(body, queries),
    )


def _is_resumable(body: GenerationBody, queries: Sequence[GenerateQuery]) -> bool:
    if not body.resumable:
        return False
    is_plain = len(queries) == 1 and queries[0].num_logprobs is None and not body.return_token_ids
    if not (body.stream and is_plain):
        raise InvalidRequestError(
            "resumable goes with a stream of one choice, without log-probabilities and token ids",
            field="resumable",
        )
    return True


def _model_object(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.model,
        "object": "model",
        "created": 0,
        "owned_by": "treedraft",
        "max_model_len": model.context_length,
        "num_targets": model.num_targets,
        "num_drafters": model.num_drafters,
    }


async def _up_to_promise(events: AsyncGenerator[IndexedEvent, None]) -> list[IndexedEvent]:
    """Return the events up to the first that is more than a promise."""
    early: list[IndexedEvent] = []
    try:
        async for item in events:
            early.append(item)
            if not isinstance(item[1], Started):
                break
    except BaseException:
        await events.aclose()
        raise
    return early


async def _chain(
    first: FirstEvents, events: AsyncGenerator[IndexedEvent, None]
) -> AsyncGenerator[IndexedEvent, None]:
    try:
        for item in await first:
            yield item
        async for item in events:
            yield item
    finally:
        await end(first)
        await events.aclose()
