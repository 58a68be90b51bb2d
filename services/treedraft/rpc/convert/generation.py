"""What a client asks of a coordinator, and what it is told."""

from collections.abc import Sequence
from typing import assert_never

from treedraft.core.errors import InvalidRequestError
from treedraft.core.generation import (
    ChatMessage,
    Delta,
    Finished,
    GenerateEvent,
    GenerateQuery,
    ResumeQuery,
    ServedModel,
    Started,
)
from treedraft.rpc.convert.logprobs import logprobs_from_proto, logprobs_to_proto
from treedraft.rpc.convert.sampling import (
    finish_reason_from_proto,
    finish_reason_to_proto,
    sampling_from_proto,
    sampling_to_proto,
    speculation_from_proto,
    speculation_to_proto,
    stopping_from_proto,
    stopping_to_proto,
)
from treedraft.rpc.convert.statistics import (
    round_report_from_proto,
    round_report_to_proto,
    statistics_from_proto,
    statistics_to_proto,
)
from treedraft.rpc.convert.tools import (
    calls_from_proto,
    calls_to_proto,
    offer_from_proto,
    offer_to_proto,
    pieces_from_proto,
    pieces_to_proto,
)
from treedraft.rpc.convert.tree import sources_from_proto, sources_to_proto
from treedraft.v1 import coordinator_service_pb2


def generate_query_to_proto(query: GenerateQuery) -> coordinator_service_pb2.GenerateRequest:
    """Return the wire form of a request for text.

    Raises:
        InvalidRequestError: not exactly one input, or a number or string that
            no field of the wire can hold, such as a negative token id.
    """
    inputs = (query.text, query.token_ids, query.conversation)
    if sum(item is not None for item in inputs) != 1:
        raise _wrong_input()
    try:
        message = coordinator_service_pb2.GenerateRequest(
            model=query.model,
            sampling=sampling_to_proto(query.sampling),
            stopping=stopping_to_proto(query.stopping),
            speculation=speculation_to_proto(query.speculation),
            watch_rounds=query.watch_rounds,
            choice=query.choice,
            idempotency_key=query.idempotency_key,
            num_logprobs=query.num_logprobs,
            tools=offer_to_proto(query.tools) if query.tools else None,
        )
        if query.text is not None:
            message.text = query.text
        elif query.token_ids is not None:
            message.tokens.token_ids.extend(query.token_ids)
            message.tokens.SetInParent()
        else:
            message.conversation.SetInParent()
            for item in query.conversation or ():
                message.conversation.messages.add(
                    role=item.role,
                    content=item.content,
                    tool_calls=calls_to_proto(item.tool_calls),
                    tool_call_id=item.tool_call_id,
                    name=item.name,
                )
    except ValueError as error:
        raise InvalidRequestError(str(error), reason="VALUE_OUT_OF_RANGE") from error
    return message


def generate_query_from_proto(message: coordinator_service_pb2.GenerateRequest) -> GenerateQuery:
    """Return a request for text.

    Raises:
        InvalidRequestError: no input, or parameters out of range.
    """
    kind = message.WhichOneof("input")
    if kind is None:
        raise _wrong_input()
    tokens = conversation = None
    if kind == "tokens":
        tokens = tuple(message.tokens.token_ids)
    elif kind == "conversation":
        conversation = tuple(map(_message_from_proto, message.conversation.messages))
    return GenerateQuery(
        model=message.model,
        text=message.text if kind == "text" else None,
        token_ids=tokens,
        conversation=conversation,
        sampling=sampling_from_proto(message.sampling),
        stopping=stopping_from_proto(message.stopping),
        speculation=speculation_from_proto(message.speculation),
        watch_rounds=message.watch_rounds,
        choice=message.choice,
        idempotency_key=message.idempotency_key,
        num_logprobs=message.num_logprobs if message.HasField("num_logprobs") else None,
        tools=offer_from_proto(message.tools) if message.HasField("tools") else None,
    )


def _message_from_proto(message: coordinator_service_pb2.ChatMessage) -> ChatMessage:
    return ChatMessage(
        message.role,
        message.content,
        calls_from_proto(message.tool_calls),
        message.tool_call_id,
        message.name,
    )


def _wrong_input() -> InvalidRequestError:
    return InvalidRequestError(
        "give exactly one of text, tokens and conversation", field="input", reason="INVALID_INPUT"
    )


def resume_query_to_proto(query: ResumeQuery) -> coordinator_service_pb2.ResumeRequest:
    """Return the wire form of a request for the rest of an answer."""
    return coordinator_service_pb2.ResumeRequest(
        session_id=query.session_id, num_tokens=query.num_tokens, tokens_hash=query.tokens_hash
    )


def resume_query_from_proto(message: coordinator_service_pb2.ResumeRequest) -> ResumeQuery:
    """Return a request for the rest of an answer.

    Raises:
        InvalidRequestError: no hash of the tokens.
    """
    return ResumeQuery(message.session_id, message.num_tokens, message.tokens_hash)


def generate_event_to_proto(event: GenerateEvent) -> coordinator_service_pb2.GenerateResponse:
    """Return the wire form of a part of the answer."""
    match event:
        case Started():
            started = coordinator_service_pb2.GenerateStarted(
                session_id=event.session_id,
                seed=event.seed,
                prompt_token_ids=event.prompt_token_ids,
                trace_id=event.trace_id,
                model=event.model,
            )
            return coordinator_service_pb2.GenerateResponse(started=started)
        case Delta():
            delta = coordinator_service_pb2.GenerateDelta(
                base_length=event.base_length,
                token_ids=event.token_ids,
                sources=sources_to_proto(event.sources),
                text=event.text,
                rounds=[round_report_to_proto(report) for report in event.rounds],
                text_sources=sources_to_proto(event.text_sources) if event.text_sources else None,
                logprobs=logprobs_to_proto(event.logprobs),
                tool_calls=pieces_to_proto(event.tool_calls),
            )
            return coordinator_service_pb2.GenerateResponse(delta=delta)
        case Finished():
            finished = coordinator_service_pb2.GenerateFinished(
                reason=finish_reason_to_proto(event.reason),
                statistics=statistics_to_proto(event.statistics),
                time_to_first_token_ms=event.time_to_first_token_ms,
                has_tool_calls=event.has_tool_calls,
            )
            return coordinator_service_pb2.GenerateResponse(finished=finished)
        case _:
            assert_never(event)


def generate_event_from_proto(
    message: coordinator_service_pb2.GenerateResponse,
) -> GenerateEvent | None:
    """Return a part of the answer; None for a kind that is newer than this code.

    Raises:
        InvalidRequestError: unknown sources or an unknown finish reason.
    """
    match message.WhichOneof("event"):
        case "started":
            started = message.started
            return Started(
                session_id=started.session_id,
                seed=started.seed,
                prompt_token_ids=tuple(started.prompt_token_ids),
                trace_id=started.trace_id,
                model=started.model,
            )
        case "delta":
            delta = message.delta
            return Delta(
                base_length=delta.base_length,
                token_ids=tuple(delta.token_ids),
                sources=sources_from_proto(delta.sources),
                text=delta.text,
                rounds=tuple(round_report_from_proto(report) for report in delta.rounds),
                text_sources=sources_from_proto(delta.text_sources),
                logprobs=logprobs_from_proto(delta.logprobs, len(delta.token_ids)),
                tool_calls=pieces_from_proto(delta.tool_calls),
            )
        case "finished":
            finished = message.finished
            return Finished(
                reason=finish_reason_from_proto(finished.reason),
                statistics=statistics_from_proto(finished.statistics),
                time_to_first_token_ms=finished.time_to_first_token_ms,
                has_tool_calls=finished.has_tool_calls,
            )
        case _:
            return None


def served_models_to_proto(
    models: Sequence[ServedModel],
) -> coordinator_service_pb2.ListModelsResponse:
    """Return the wire form of the models served."""
    return coordinator_service_pb2.ListModelsResponse(
        models=[
            coordinator_service_pb2.ServedModel(
                model=model.model,
                context_length=model.context_length,
                num_targets=model.num_targets,
                num_drafters=model.num_drafters,
            )
            for model in models
        ]
    )


def served_models_from_proto(
    message: coordinator_service_pb2.ListModelsResponse,
) -> list[ServedModel]:
    """Return the models served."""
    return [
        ServedModel(
            model=model.model,
            context_length=model.context_length,
            num_targets=model.num_targets,
            num_drafters=model.num_drafters,
        )
        for model in message.models
    ]
