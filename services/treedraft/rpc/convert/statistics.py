"""Counts and times of a session and of its rounds, which target and coordinator report."""

from treedraft.core.session import RoundReport, RoundTimes, SessionStatistics
from treedraft.rpc.convert.tree import sources_from_proto, sources_to_proto
from treedraft.v1 import target_service_pb2


def statistics_to_proto(statistics: SessionStatistics) -> target_service_pb2.SessionStatistics:
    """Return the wire form of a session's statistics."""
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
        round_ms=_times_to_proto(statistics.round_ms),
        cached_prompt_tokens=statistics.cached_prompt_tokens,
        preemptions=statistics.preemptions,
        first_tokens=statistics.first_tokens,
        accepted_lengths=statistics.accepted_lengths,
        accepted_lengths_by_depth=[
            target_service_pb2.AcceptedLengths(counts=counts)
            for counts in statistics.accepted_lengths_by_depth
        ],
    )


def statistics_from_proto(message: target_service_pb2.SessionStatistics) -> SessionStatistics:
    """Return a session's statistics."""
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
        round_ms=_times_from_proto(message.round_ms),
        cached_prompt_tokens=message.cached_prompt_tokens,
        preemptions=message.preemptions,
        first_tokens=message.first_tokens,
        accepted_lengths=tuple(message.accepted_lengths),
        accepted_lengths_by_depth=tuple(
            tuple(rounds.counts) for rounds in message.accepted_lengths_by_depth
        ),
    )


def round_report_to_proto(report: RoundReport) -> target_service_pb2.RoundReport:
    """Return the wire form of what happened in a round; scores become float32."""
    return target_service_pb2.RoundReport(
        base_length=report.base_length,
        parents=[parent + 1 for parent in report.parents],
        token_ids=report.token_ids,
        scores=report.scores,
        sources=sources_to_proto(report.sources),
        accepted=report.accepted,
        bonus_token_id=report.bonus_token_id,
        is_hit=report.is_hit,
        drafted_nodes=report.drafted_nodes,
        late_nodes=report.late_nodes,
        times=_times_to_proto(report.times),
    )


def round_report_from_proto(message: target_service_pb2.RoundReport) -> RoundReport:
    """Return what happened in a round.

    Raises:
        InvalidRequestError: unknown sources, or arrays that describe no tree.
    """
    has_bonus = message.HasField("bonus_token_id")
    return RoundReport(
        base_length=message.base_length,
        parents=tuple(parent - 1 for parent in message.parents),
        token_ids=tuple(message.token_ids),
        scores=tuple(message.scores),
        sources=sources_from_proto(message.sources),
        accepted=tuple(message.accepted),
        bonus_token_id=message.bonus_token_id if has_bonus else None,
        is_hit=message.is_hit if message.HasField("is_hit") else None,
        drafted_nodes=message.drafted_nodes,
        late_nodes=message.late_nodes,
        times=_times_from_proto(message.times),
    )


def _times_to_proto(times: RoundTimes) -> target_service_pb2.RoundTimes:
    return target_service_pb2.RoundTimes(
        draft=times.draft,
        wire=times.wire,
        queue=times.queue,
        forward=times.forward,
        walk=times.walk,
        commit=times.commit,
    )


def _times_from_proto(message: target_service_pb2.RoundTimes) -> RoundTimes:
    return RoundTimes(
        draft=message.draft,
        wire=message.wire,
        queue=message.queue,
        forward=message.forward,
        walk=message.walk,
        commit=message.commit,
    )
