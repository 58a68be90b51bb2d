"""What coordinator and target say to each other."""

from collections.abc import Sequence

from treedraft.core.exchange import CoordinatorFrame, LogAcknowledgement
from treedraft.core.model_description import ModelDescription
from treedraft.core.session import SessionFailure, SessionFinish, SessionOutput, SessionSpec
from treedraft.core.worker import DrafterAddress
from treedraft.rpc.convert.logprobs import logprobs_from_proto, logprobs_to_proto
from treedraft.rpc.convert.numbers import duration_from_proto, duration_to_proto
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
from treedraft.rpc.convert.tree import sources_from_proto, sources_to_proto
from treedraft.v1 import target_service_pb2


def session_spec_to_proto(spec: SessionSpec) -> target_service_pb2.SessionStart:
    """Return the wire form of a session to run."""
    limit = spec.time_limit_seconds
    return target_service_pb2.SessionStart(
        session_id=spec.session_id,
        epoch=spec.epoch,
        token_ids=spec.token_ids,
        prompt_length=spec.prompt_length,
        sampling=sampling_to_proto(spec.sampling),
        stopping=stopping_to_proto(spec.stopping),
        speculation=speculation_to_proto(spec.speculation),
        choice=spec.choice,
        tenant_salt=spec.tenant_salt,
        drafters=[
            target_service_pb2.DrafterAddress(
                worker_id=drafter.worker_id,
                incarnation=drafter.incarnation,
                endpoint=drafter.endpoint,
            )
            for drafter in spec.drafters
        ],
        traceparent=spec.traceparent,
        time_limit=None if limit is None else duration_to_proto(limit),
        watch_rounds=spec.watch_rounds,
        num_logprobs=spec.num_logprobs,
    )


def session_spec_from_proto(message: target_service_pb2.SessionStart) -> SessionSpec:
    """Return a session to run.

    Raises:
        InvalidRequestError: parameters out of range or a malformed duration.
    """
    has_limit = message.HasField("time_limit")
    return SessionSpec(
        session_id=message.session_id,
        epoch=message.epoch,
        token_ids=tuple(message.token_ids),
        prompt_length=message.prompt_length,
        sampling=sampling_from_proto(message.sampling),
        stopping=stopping_from_proto(message.stopping),
        speculation=speculation_from_proto(message.speculation),
        choice=message.choice,
        tenant_salt=message.tenant_salt,
        drafters=tuple(
            DrafterAddress(drafter.worker_id, drafter.incarnation, drafter.endpoint)
            for drafter in message.drafters
        ),
        traceparent=message.traceparent,
        time_limit_seconds=duration_from_proto(message.time_limit) if has_limit else None,
        watch_rounds=message.watch_rounds,
        num_logprobs=message.num_logprobs if message.HasField("num_logprobs") else None,
    )


def coordinator_frame_to_proto(frame: CoordinatorFrame) -> target_service_pb2.RunSessionsRequest:
    """Return the wire form of a coordinator's frame."""
    return target_service_pb2.RunSessionsRequest(
        coordinator_id=frame.coordinator_id,
        starts=[session_spec_to_proto(spec) for spec in frame.starts],
        cancels=[target_service_pb2.SessionCancel(session_id=name) for name in frame.cancels],
        acknowledgements=[
            target_service_pb2.LogAcknowledgement(
                session_id=item.session_id, logged_length=item.logged_length
            )
            for item in frame.acknowledgements
        ],
    )


def coordinator_frame_from_proto(
    message: target_service_pb2.RunSessionsRequest,
) -> CoordinatorFrame:
    """Return a coordinator's frame.

    Raises:
        InvalidRequestError: parameters of a session are out of range.
    """
    return CoordinatorFrame(
        coordinator_id=message.coordinator_id,
        starts=tuple(session_spec_from_proto(start) for start in message.starts),
        cancels=tuple(cancel.session_id for cancel in message.cancels),
        acknowledgements=tuple(
            LogAcknowledgement(item.session_id, item.logged_length)
            for item in message.acknowledgements
        ),
    )


def outputs_to_proto(
    outputs: Sequence[SessionOutput],
) -> target_service_pb2.RunSessionsResponse:
    """Return the wire form of what became of the sessions in a step."""
    return target_service_pb2.RunSessionsResponse(
        outputs=[_output_to_proto(output) for output in outputs]
    )


def outputs_from_proto(
    message: target_service_pb2.RunSessionsResponse,
) -> tuple[SessionOutput, ...]:
    """Return what became of the sessions in a step.

    Raises:
        InvalidRequestError: unknown sources or an unknown finish reason.
    """
    return tuple(_output_from_proto(output) for output in message.outputs)


def _output_to_proto(output: SessionOutput) -> target_service_pb2.SessionOutput:
    message = target_service_pb2.SessionOutput(
        session_id=output.session_id,
        epoch=output.epoch,
        base_length=output.base_length,
        token_ids=output.token_ids,
        sources=sources_to_proto(output.sources),
        logprobs=logprobs_to_proto(output.logprobs),
    )
    if output.finish:
        message.finish.reason = finish_reason_to_proto(output.finish.reason)
        message.finish.statistics.CopyFrom(statistics_to_proto(output.finish.statistics))
    if output.failure:
        message.failure.reason = output.failure.reason
        message.failure.message = output.failure.message
        message.failure.SetInParent()
    if output.round:
        message.round.CopyFrom(round_report_to_proto(output.round))
    return message


def _output_from_proto(message: target_service_pb2.SessionOutput) -> SessionOutput:
    finish = failure = None
    if message.HasField("finish"):
        finish = SessionFinish(
            finish_reason_from_proto(message.finish.reason),
            statistics_from_proto(message.finish.statistics),
        )
    if message.HasField("failure"):
        failure = SessionFailure(message.failure.reason, message.failure.message)
    return SessionOutput(
        session_id=message.session_id,
        epoch=message.epoch,
        base_length=message.base_length,
        token_ids=tuple(message.token_ids),
        sources=sources_from_proto(message.sources),
        finish=finish,
        failure=failure,
        round=round_report_from_proto(message.round) if message.HasField("round") else None,
        logprobs=logprobs_from_proto(message.logprobs, len(message.token_ids)),
    )


def model_description_to_proto(
    description: ModelDescription,
) -> target_service_pb2.DescribeModelResponse:
    """Return the wire form of a model's description."""
    return target_service_pb2.DescribeModelResponse(
        model=description.model,
        fingerprint=description.fingerprint,
        tokenizer_hash=description.tokenizer_hash,
        vocab_size=description.vocab_size,
        context_length=description.context_length,
        max_prompt_tokens=description.max_prompt_tokens,
        eos_token_ids=sorted(description.eos_token_ids),
        tokenizer_json=description.tokenizer_json,
        chat_template=description.chat_template,
        special_tokens=description.special_tokens,
        block_size=description.block_size,
        adds_bos=description.adds_bos,
    )


def model_description_from_proto(
    message: target_service_pb2.DescribeModelResponse,
) -> ModelDescription:
    """Return a model's description."""
    return ModelDescription(
        model=message.model,
        fingerprint=message.fingerprint,
        tokenizer_hash=message.tokenizer_hash,
        vocab_size=message.vocab_size,
        context_length=message.context_length,
        max_prompt_tokens=message.max_prompt_tokens,
        eos_token_ids=frozenset(message.eos_token_ids),
        tokenizer_json=message.tokenizer_json,
        chat_template=message.chat_template,
        special_tokens=dict(message.special_tokens),
        block_size=message.block_size,
        adds_bos=message.adds_bos,
    )
