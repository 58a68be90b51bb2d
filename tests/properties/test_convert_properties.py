"""Every value survives the wire: to_proto, bytes, from_proto."""

import math
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.properties.request_values import (
    clusters,
    events,
    queries,
    registrations,
    reports,
    rollouts,
    served_models,
    weights,
)
from tests.properties.wire_values import (
    coordinator_frames,
    descriptions,
    draft_frames,
    draft_specs,
    growths,
    hellos,
    outputs,
    round_reports,
    samplings,
    session_specs,
    source_lists,
    speculations,
    statistics,
    stoppings,
    target_frames,
    uint32,
)

from treedraft.core.exchange import SessionOpen
from treedraft.core.generation import ResumeQuery
from treedraft.core.growth import Growth
from treedraft.core.session import FinishReason
from treedraft.rpc import convert

NO_NODES = Growth(0, 1, 0, (), (), (), ())


def crossed(message):
    """Return the message as the other side parses it."""
    return type(message).FromString(message.SerializeToString())


ROUND_TRIPS = {
    "sampling": samplings,
    "stopping": stoppings,
    "speculation": speculations,
    "statistics": statistics,
    "round_report": round_reports(),
    "sources": source_lists,
    "session_spec": session_specs,
    "hello": hellos,
    "growth": growths,
    "target_frame": target_frames,
    "draft_frame": draft_frames,
    "coordinator_frame": coordinator_frames,
    "outputs": outputs,
    "model_description": descriptions,
    "generate_query": queries,
    "resume_query": st.builds(
        ResumeQuery, st.text(max_size=8), uint32, st.binary(min_size=32, max_size=32)
    ),
    "generate_event": events,
    "registration": registrations,
    "report": reports,
    "cluster": clusters,
    "rollout": rollouts,
    "weights": weights,
    "served_models": served_models,
    "session_open": st.builds(SessionOpen, uint32, draft_specs),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
@given(data=st.data())
def test_values_survive_the_wire(name, data):
    value = data.draw(ROUND_TRIPS[name])
    to_proto = getattr(convert, f"{name}_to_proto")
    from_proto = getattr(convert, f"{name}_from_proto")
    assert from_proto(crossed(to_proto(value))) == value


@given(st.none() | registrations, reports)
def test_announcements_survive_the_wire(registration, report):
    message = crossed(convert.announcement_to_proto(registration, report))
    assert convert.announcement_from_proto(message) == (registration, report)


@given(st.sampled_from(FinishReason))
def test_finish_reasons_survive_the_wire(reason):
    assert convert.finish_reason_from_proto(convert.finish_reason_to_proto(reason)) is reason


@given(st.floats(0, 10**6))
def test_durations_survive_to_the_nanosecond(seconds):
    message = crossed(convert.duration_to_proto(seconds))
    assert 0 <= message.nanos < 10**9
    assert abs(convert.duration_from_proto(message) - seconds) < 2e-9


@given(growths, st.lists(st.floats(-100, 0), max_size=8).map(tuple))
def test_rounding_of_scores_keeps_their_order(growth, scores):
    scores = tuple(sorted(scores, reverse=True))
    received = convert.growth_from_proto(
        crossed(convert.growth_to_proto(replace(growth, scores=scores)))
    )
    assert list(received.scores) == sorted(received.scores, reverse=True)
    assert all(
        math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-30)
        for a, b in zip(received.scores, scores, strict=True)
    )


@given(growths, st.lists(st.floats(-1e12, 0), max_size=8).map(tuple))
@example(NO_NODES, (0.0, convert.LEAST_SCORE, convert.LEAST_SCORE - 1 / 32, -1e12))
def test_steps_of_scores_keep_their_order_and_a_survival_within_two_percent(growth, scores):
    scores = tuple(sorted(scores, reverse=True))
    told = replace(growth, scores=scores, rescored_scores=scores)
    message = convert.growth_to_proto(told, protocol_version=2)
    assert not message.scores
    assert not message.rescored_scores
    received = convert.growth_from_proto(crossed(message))
    assert received.rescored_scores == received.scores
    assert list(received.scores) == sorted(received.scores, reverse=True)
    for found, score in zip(received.scores, scores, strict=True):
        assert found <= 0.0
        assert found == pytest.approx(max(score, convert.LEAST_SCORE), abs=1 / 64)
