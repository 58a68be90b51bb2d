"""Parameters of a request: the law, the end, the speculation.

Only what differs from its default travels, so that a default has one home, the
dataclass, and common requests stay small. The dataclasses check the values.
"""

from treedraft.core.errors import InvalidRequestError
from treedraft.core.grammar import INVALID_GRAMMAR, Grammar, GrammarKind
from treedraft.core.sampling import (
    SamplingParameters,
    SpeculationOptions,
    StoppingCriteria,
    Verification,
)
from treedraft.core.session import FinishReason
from treedraft.rpc.convert.numbers import enum_from_proto
from treedraft.v1 import sampling_pb2

_DEFAULT_SAMPLING = SamplingParameters()
_SCALARS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)

_VERIFICATION_TO_PROTO = {
    Verification.COUPLED: sampling_pb2.VERIFICATION_COUPLED,
    Verification.REJECTION: sampling_pb2.VERIFICATION_REJECTION,
}
_VERIFICATION_FROM_PROTO = {
    sampling_pb2.VERIFICATION_UNSPECIFIED: _DEFAULT_SAMPLING.verification,
    **{number: rule for rule, number in _VERIFICATION_TO_PROTO.items()},
}
_FINISH_TO_PROTO = {
    FinishReason.STOP: sampling_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: sampling_pb2.FINISH_REASON_LENGTH,
    FinishReason.CANCELLED: sampling_pb2.FINISH_REASON_CANCELLED,
}
_FINISH_FROM_PROTO = {number: reason for reason, number in _FINISH_TO_PROTO.items()}


def sampling_to_proto(sampling: SamplingParameters) -> sampling_pb2.SamplingParameters:
    """Return the wire form of sampling parameters."""
    message = sampling_pb2.SamplingParameters(
        logit_bias=dict(sampling.logit_bias),
        seed=sampling.seed,
        verification=_VERIFICATION_TO_PROTO[sampling.verification],
    )
    if sampling.grammar is not None:
        setattr(message.grammar, sampling.grammar.kind.value, sampling.grammar.source)
    for name in _SCALARS:
        value = getattr(sampling, name)
        if value != getattr(_DEFAULT_SAMPLING, name):
            setattr(message, name, value)
    return message


def sampling_from_proto(message: sampling_pb2.SamplingParameters) -> SamplingParameters:
    """Return checked sampling parameters, the logit bias sorted by token.

    Raises:
        InvalidRequestError: a value out of range, with the field's name.
    """
    present = {name: getattr(message, name) for name in _SCALARS if _is_present(message, name)}
    return SamplingParameters(
        **present,
        logit_bias=tuple(sorted(message.logit_bias.items())),
        seed=message.seed if message.HasField("seed") else None,
        grammar=_grammar_from_proto(message) if message.HasField("grammar") else None,
        verification=enum_from_proto(
            message.verification, _VERIFICATION_FROM_PROTO, "verification"
        ),
    )


def _grammar_from_proto(message: sampling_pb2.SamplingParameters) -> Grammar:
    kind = message.grammar.WhichOneof("kind")
    if kind is None:
        raise InvalidRequestError(
            "a grammar of no kind that is known here", field="grammar", reason=INVALID_GRAMMAR
        )
    return Grammar(GrammarKind(kind), getattr(message.grammar, kind))


def _is_present(message: sampling_pb2.SamplingParameters, name: str) -> bool:
    return message.HasField(name)  # type: ignore[arg-type]  # one of _SCALARS


def stopping_to_proto(stopping: StoppingCriteria) -> sampling_pb2.StoppingCriteria:
    """Return the wire form of stopping criteria."""
    return sampling_pb2.StoppingCriteria(
        max_tokens=stopping.max_tokens,
        stop_strings=stopping.stop_strings,
        stop_token_ids=sorted(stopping.stop_token_ids),
        ignore_eos=stopping.ignore_eos,
        min_tokens=stopping.min_tokens,
    )


def stopping_from_proto(message: sampling_pb2.StoppingCriteria) -> StoppingCriteria:
    """Return checked stopping criteria.

    Raises:
        InvalidRequestError: a value out of range, with the field's name.
    """
    return StoppingCriteria(
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        stop_strings=tuple(message.stop_strings),
        stop_token_ids=frozenset(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
        min_tokens=message.min_tokens,
    )


def speculation_to_proto(speculation: SpeculationOptions) -> sampling_pb2.SpeculationOptions:
    """Return the wire form of speculation options."""
    return sampling_pb2.SpeculationOptions(
        enabled=None if speculation.enabled else False,
        max_nodes=speculation.max_nodes,
        max_depth=speculation.max_depth,
        lookup=None if speculation.lookup else False,
    )


def speculation_from_proto(message: sampling_pb2.SpeculationOptions) -> SpeculationOptions:
    """Return checked speculation options.

    Raises:
        InvalidRequestError: a value out of range, with the field's name.
    """
    return SpeculationOptions(
        enabled=message.enabled if message.HasField("enabled") else True,
        max_nodes=message.max_nodes if message.HasField("max_nodes") else None,
        max_depth=message.max_depth if message.HasField("max_depth") else None,
        lookup=message.lookup if message.HasField("lookup") else True,
    )


def finish_reason_to_proto(reason: FinishReason) -> sampling_pb2.FinishReason.ValueType:
    """Return the wire form of a finish reason."""
    return _FINISH_TO_PROTO[reason]


def finish_reason_from_proto(number: sampling_pb2.FinishReason.ValueType) -> FinishReason:
    """Return the finish reason; an unknown one raises InvalidRequestError."""
    return enum_from_proto(number, _FINISH_FROM_PROTO, "finish_reason")
