"""Counts and times of a session, which both target and coordinator report."""

from treedraft.core.session import RoundTimes, SessionStatistics
from treedraft.v1 import target_service_pb2


def statistics_to_proto(statistics: SessionStatistics) -> target_service_pb2.SessionStatistics:
    """Return the wire form of a session's statistics."""
    times = statistics.round_ms
    return target_service_pb2.SessionStatistics(
        rounds=statistics.rounds,
        emitted_tokens=statistics.emitted_tokens,
        drafted_nodes=statistics.drafted_nodes,
        admitted_nodes=statistics.admitted_nodes,
        accepted_nodes=statistics.accepted_nodes,
        hits=statistics.hits,
        misses=statistics.misses,
        dropped_nodes=statistics.dropped_nodes,
        first_token_ms=statistics.first_token_ms,
        decode_ms=statistics.decode_ms,
        round_ms=target_service_pb2.RoundTimes(
            draft=times.draft,
            wire=times.wire,
            queue=times.queue,
            forward=times.forward,
            walk=times.walk,
            commit=times.commit,
        ),
        cached_prompt_tokens=statistics.cached_prompt_tokens,
        preemptions=statistics.preemptions,
        first_tokens=statistics.first_tokens,
    )


def statistics_from_proto(message: target_service_pb2.SessionStatistics) -> SessionStatistics:
    """Return a session's statistics."""
    times = message.round_ms
    return SessionStatistics(
        rounds=message.rounds,
        emitted_tokens=message.emitted_tokens,
        drafted_nodes=message.drafted_nodes,
        admitted_nodes=message.admitted_nodes,
        accepted_nodes=message.accepted_nodes,
        hits=message.hits,
        misses=message.misses,
        dropped_nodes=message.dropped_nodes,
        first_token_ms=message.first_token_ms,
        decode_ms=message.decode_ms,
        round_ms=RoundTimes(
            draft=times.draft,
            wire=times.wire,
            queue=times.queue,
            forward=times.forward,
            walk=times.walk,
            commit=times.commit,
        ),
        cached_prompt_tokens=message.cached_prompt_tokens,
        preemptions=message.preemptions,
        first_tokens=message.first_tokens,
    )
