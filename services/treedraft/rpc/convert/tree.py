"""Growth and token sources: flat arrays on the wire, tuples inside.

A run-length code can say in ten bytes what fills a machine's memory, so the
runs are added up before they are expanded.
"""

from collections.abc import Sequence
from itertools import groupby
from math import isfinite

from treedraft.core.errors import InvalidGrowthError, InvalidRequestError
from treedraft.core.growth import Growth, SiblingLaw, TokenSource
from treedraft.v1 import token_tree_pb2

MAX_RUN_TOKENS = 65536
"""Tokens that the runs of one message may cover, and nodes in one growth."""

_FIRST_WITH_STEPS = 2
# A survival is off by 1.6 % at most, far less than it is estimated to; a child never comes
# to score above its parent.
_STEPS_PER_NAT = 32
# No path is that unlikely; all of these are whole numbers of steps in a 32-bit float too.
_MAX_STEPS = (1 << 24) - 1
LEAST_SCORE = -_MAX_STEPS / _STEPS_PER_NAT
"""Nats; what scores less is told as this by the version that has steps."""

_SOURCE_TO_PROTO = {
    TokenSource.DRAFT_MODEL: token_tree_pb2.TOKEN_SOURCE_DRAFT_MODEL,
    TokenSource.LOOKUP: token_tree_pb2.TOKEN_SOURCE_LOOKUP,
    TokenSource.TARGET: token_tree_pb2.TOKEN_SOURCE_TARGET,
}
_SOURCE_FROM_PROTO = {number: source for source, number in _SOURCE_TO_PROTO.items()}


def sources_to_proto(sources: Sequence[TokenSource]) -> token_tree_pb2.TokenSourceRuns:
    """Return the run-length code of a sequence of sources."""
    if len(sources) and sources.count(sources[0]) == len(sources):  # nearly always
        runs = [(sources[0], len(sources))]
    else:
        runs = [(source, sum(1 for _ in run)) for source, run in groupby(sources)]
    return token_tree_pb2.TokenSourceRuns(
        sources=[_SOURCE_TO_PROTO[source] for source, _ in runs],
        lengths=[length for _, length in runs],
    )


def sources_from_proto(message: token_tree_pb2.TokenSourceRuns) -> tuple[TokenSource, ...]:
    """Expand a run-length code.

    Raises:
        InvalidRequestError: arrays of different length, an empty run, an
            unknown source, or more than MAX_RUN_TOKENS tokens in all.
    """
    if len(message.sources) != len(message.lengths):
        raise _invalid_runs("have more values than lengths or the reverse")
    if 0 in message.lengths:
        raise _invalid_runs("have an empty run")
    if sum(message.lengths) > MAX_RUN_TOKENS:
        raise _invalid_runs(f"cover more than {MAX_RUN_TOKENS} tokens")
    expanded: list[TokenSource] = []
    for number, length in zip(message.sources, message.lengths, strict=True):
        source = _SOURCE_FROM_PROTO.get(number)
        if source is None:
            raise _invalid_runs(f"have the unknown value {number}")
        expanded.extend([source] * length)
    return tuple(expanded)


def _invalid_runs(problem: str) -> InvalidRequestError:
    return InvalidRequestError(f"runs of token sources {problem}", field="sources")


def growth_to_proto(growth: Growth, *, protocol_version: int = 1) -> token_tree_pb2.Growth:
    """Return the wire form of a growth, for a peer that speaks this version of the protocol.

    Scores become float32, from version 2 on whole steps; probabilities become float32.
    """
    message = token_tree_pb2.Growth(
        session_number=growth.session_number,
        base_length=growth.base_length,
        first_node_id=growth.first_node_id,
        parent_offsets=growth.parent_offsets,
        token_ids=growth.token_ids,
        sources=sources_to_proto(growth.sources),
        sibling_laws=[
            token_tree_pb2.SiblingLaw(
                first_child_id=law.first_child_id,
                num_children=law.num_children,
                token_ids=law.token_ids,
                probabilities=law.probabilities,
            )
            for law in growth.sibling_laws
        ],
        draft_us=growth.draft_us,
        held_us=growth.held_us,
        rescored_ids=growth.rescored_ids,
    )
    if protocol_version < _FIRST_WITH_STEPS:
        message.scores.extend(growth.scores)
        message.rescored_scores.extend(growth.rescored_scores)
    else:
        message.score_steps.extend(_steps_of(growth.scores))
        message.rescored_steps.extend(_steps_of(growth.rescored_scores))
    return message


def _steps_of(scores: Sequence[float]) -> list[int]:
    """Return whole steps below 0; a score that is none, or above 0, counts as no step."""
    steps = [-score * _STEPS_PER_NAT for score in scores]
    if steps and not (min(steps) >= 0.0 and max(steps) <= _MAX_STEPS and isfinite(sum(steps))):
        steps = [min(max(0.0, step), _MAX_STEPS) for step in steps]
    return list(map(round, steps))


def _scores_of(scores: Sequence[float], steps: Sequence[int]) -> tuple[float, ...]:
    if not len(steps) or len(scores):
        return tuple(scores)
    if max(steps) > _MAX_STEPS:
        steps = [min(step, _MAX_STEPS) for step in steps]
    return tuple([-step / _STEPS_PER_NAT for step in steps])


def growth_from_proto(message: token_tree_pb2.Growth) -> Growth:
    """Return the value of a growth; `Growth.check` says whether it is a tree.

    Raises:
        InvalidGrowthError: too many nodes, or sources that are no sources.
    """
    if max(len(message.token_ids), len(message.rescored_ids)) > MAX_RUN_TOKENS:
        raise InvalidGrowthError(f"a growth of more than {MAX_RUN_TOKENS} nodes")
    try:
        sources = sources_from_proto(message.sources)
    except InvalidRequestError as error:
        raise InvalidGrowthError(error.message) from error
    return Growth(
        session_number=message.session_number,
        base_length=message.base_length,
        first_node_id=message.first_node_id,
        parent_offsets=tuple(message.parent_offsets),
        token_ids=tuple(message.token_ids),
        scores=_scores_of(message.scores, message.score_steps),
        sources=sources,
        sibling_laws=tuple(_law_from_proto(law) for law in message.sibling_laws),
        draft_us=message.draft_us,
        held_us=message.held_us,
        rescored_ids=tuple(message.rescored_ids),
        rescored_scores=_scores_of(message.rescored_scores, message.rescored_steps),
    )


def _law_from_proto(message: token_tree_pb2.SiblingLaw) -> SiblingLaw:
    return SiblingLaw(
        first_child_id=message.first_child_id,
        num_children=message.num_children,
        token_ids=tuple(message.token_ids),
        probabilities=tuple(message.probabilities),
    )
