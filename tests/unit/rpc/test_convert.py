"""What may arrive from the wire and must not pass."""

import pytest

from treedraft.core.errors import InvalidGrowthError, InvalidRequestError
from treedraft.core.exchange import DraftFrame, Rest
from treedraft.core.generation import GenerateQuery
from treedraft.core.growth import Growth, TokenSource
from treedraft.core.sampling import SamplingParameters, SpeculationOptions, StoppingCriteria
from treedraft.core.worker import LoadSignals
from treedraft.rpc import convert
from treedraft.rpc.convert.tree import MAX_RUN_TOKENS
from treedraft.v1 import (
    coordinator_service_pb2,
    draft_service_pb2,
    sampling_pb2,
    target_service_pb2,
    token_tree_pb2,
)

LOOKUP = token_tree_pb2.TOKEN_SOURCE_LOOKUP


def test_absent_fields_take_the_defaults():
    assert convert.sampling_from_proto(sampling_pb2.SamplingParameters()) == SamplingParameters()
    assert convert.stopping_from_proto(sampling_pb2.StoppingCriteria()) == StoppingCriteria()
    assert convert.speculation_from_proto(sampling_pb2.SpeculationOptions()) == SpeculationOptions()


def test_a_measurement_that_is_no_amount_counts_as_nothing():
    message = coordinator_service_pb2.LoadSignals(
        utilisation=float("nan"),
        queue_wait_seconds=-1.0,
        tokens_per_round=float("inf"),
        tokens_per_second=2.5,
    )
    assert convert.signals_from_proto(message) == LoadSignals(tokens_per_second=2.5)


def test_zero_is_not_absent():
    message = sampling_pb2.SamplingParameters(temperature=0.0, seed=0)
    sampling = convert.sampling_from_proto(message)
    assert sampling.is_greedy
    assert sampling.seed == 0
    options = convert.speculation_from_proto(sampling_pb2.SpeculationOptions(max_nodes=0))
    assert options.max_nodes == 0


def test_defaults_take_no_room_on_the_wire():
    request = convert.generate_query_to_proto(GenerateQuery(text="hi"))
    assert request.ByteSize() < 16


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -1.0), ("temperature", float("nan")), ("top_p", 0.0), ("min_p", 2.0)],
)
def test_parameters_out_of_range_name_the_field(field, value):
    message = sampling_pb2.SamplingParameters(**{field: value})
    with pytest.raises(InvalidRequestError) as caught:
        convert.sampling_from_proto(message)
    assert caught.value.field == field


def test_zero_max_tokens_is_refused():
    with pytest.raises(InvalidRequestError) as caught:
        convert.stopping_from_proto(sampling_pb2.StoppingCriteria(max_tokens=0))
    assert caught.value.field == "max_tokens"


def test_unknown_verification_is_refused():
    message = sampling_pb2.SamplingParameters.FromString(bytes([10 << 3, 99]))
    with pytest.raises(InvalidRequestError, match="99"):
        convert.sampling_from_proto(message)


def test_unspecified_finish_reason_and_role_are_refused():
    with pytest.raises(InvalidRequestError, match="finish_reason"):
        convert.finish_reason_from_proto(sampling_pb2.FINISH_REASON_UNSPECIFIED)
    with pytest.raises(InvalidRequestError, match="role"):
        convert.registration_from_proto(coordinator_service_pb2.WorkerRegistration())


def test_runs_are_coded_shortly():
    sources = (TokenSource.LOOKUP,) * 50 + (TokenSource.TARGET,)
    message = convert.sources_to_proto(sources)
    assert list(message.lengths) == [50, 1]


@pytest.mark.parametrize(
    "runs",
    [
        token_tree_pb2.TokenSourceRuns(sources=[LOOKUP], lengths=[2**32 - 1]),
        token_tree_pb2.TokenSourceRuns(sources=[LOOKUP] * 2, lengths=[MAX_RUN_TOKENS, 1]),
        token_tree_pb2.TokenSourceRuns(sources=[LOOKUP], lengths=[]),
        token_tree_pb2.TokenSourceRuns(sources=[], lengths=[1]),
        token_tree_pb2.TokenSourceRuns(sources=[LOOKUP], lengths=[0]),
        token_tree_pb2.TokenSourceRuns(sources=[0], lengths=[1]),
        token_tree_pb2.TokenSourceRuns(sources=[77], lengths=[1]),
    ],
)
def test_hostile_runs_are_refused_before_they_are_expanded(runs):
    with pytest.raises(InvalidRequestError) as caught:
        convert.sources_from_proto(runs)
    assert caught.value.field == "sources"
    frame = draft_service_pb2.ExchangeTreesResponse(growths=[token_tree_pb2.Growth(sources=runs)])
    with pytest.raises(InvalidGrowthError):
        convert.draft_frame_from_proto(frame)


def test_the_longest_run_passes():
    runs = token_tree_pb2.TokenSourceRuns(sources=[LOOKUP], lengths=[MAX_RUN_TOKENS])
    assert len(convert.sources_from_proto(runs)) == MAX_RUN_TOKENS


def test_a_growth_of_too_many_nodes_is_refused():
    message = token_tree_pb2.Growth(token_ids=[1] * (MAX_RUN_TOKENS + 1))
    with pytest.raises(InvalidGrowthError):
        convert.growth_from_proto(message)


@pytest.mark.parametrize(
    "query",
    [
        GenerateQuery(),
        GenerateQuery(text="a", token_ids=(1,)),
    ],
)
def test_a_query_has_exactly_one_input(query):
    with pytest.raises(InvalidRequestError) as caught:
        convert.generate_query_to_proto(query)
    assert caught.value.reason == "INVALID_INPUT"


def test_a_request_without_input_is_refused():
    with pytest.raises(InvalidRequestError) as caught:
        convert.generate_query_from_proto(coordinator_service_pb2.GenerateRequest())
    assert caught.value.reason == "INVALID_INPUT"


@pytest.mark.parametrize(
    "query",
    [
        GenerateQuery(token_ids=(-1,)),
        GenerateQuery(token_ids=(2**32,)),
        GenerateQuery(text="\ud800"),
        GenerateQuery(text="a", sampling=SamplingParameters(top_k=2**40)),
    ],
)
def test_what_the_wire_cannot_hold_is_the_callers_fault(query):
    with pytest.raises(InvalidRequestError) as caught:
        convert.generate_query_to_proto(query)
    assert caught.value.reason == "VALUE_OUT_OF_RANGE"


def test_an_event_of_a_newer_server_is_skipped():
    assert convert.generate_event_from_proto(coordinator_service_pb2.GenerateResponse()) is None


@pytest.mark.parametrize(("seconds", "nanos"), [(-1, 0), (0, -1), (0, 10**9), (2**62, 0)])
def test_malformed_durations_are_refused(seconds, nanos):
    message = target_service_pb2.SessionStart()
    message.time_limit.seconds = seconds
    message.time_limit.nanos = nanos
    with pytest.raises(InvalidRequestError) as caught:
        convert.session_spec_from_proto(message)
    assert caught.value.reason == "INVALID_DURATION"


@pytest.mark.parametrize("seconds", [-0.1, float("inf"), float("nan"), 1e300])
def test_what_is_no_duration_is_not_sent(seconds):
    with pytest.raises(InvalidRequestError):
        convert.duration_to_proto(seconds)


def test_a_duration_just_below_a_second_carries_over():
    message = convert.duration_to_proto(1.9999999999)
    assert (message.seconds, message.nanos) == (2, 0)


TREE = {"token_ids": [5, 6], "parents": [0, 1], "scores": [-0.1, -0.2]}
TWO_LOOKUPS = token_tree_pb2.TokenSourceRuns(sources=[LOOKUP], lengths=[2])


@pytest.mark.parametrize(
    "wrong",
    [
        {"parents": [0]},
        {"parents": [0, 2]},
        {"parents": [1, 0]},
        {"scores": [-0.1] * 3},
        {"accepted": [2]},
        {"accepted": [1, 0]},
        {"accepted": [0, 0]},
        {"token_ids": [1] * 300, "parents": [0] * 300, "scores": [0.0] * 300},
    ],
)
def test_rounds_that_were_none_are_refused(wrong):
    message = target_service_pb2.RoundReport(**{**TREE, **wrong}, sources=TWO_LOOKUPS)
    with pytest.raises(InvalidRequestError):
        convert.round_report_from_proto(message)


@pytest.mark.parametrize(("num_nodes", "most"), [(12, 8.5), (64, 6.0), (400, 6.0)])
def test_a_node_takes_few_bytes(num_nodes, most):
    growth = Growth(
        session_number=3,
        base_length=1200,
        first_node_id=9000,
        parent_offsets=tuple(1 + i % 200 for i in range(num_nodes)),
        token_ids=tuple((i * 7919) % 49152 for i in range(num_nodes)),
        scores=tuple(-8.0 * i / num_nodes for i in range(num_nodes)),
        sources=(TokenSource.DRAFT_MODEL,) * num_nodes,
        draft_us=9000,
        held_us=15000,
    )
    frame = DraftFrame(growths=(growth,), rests=(Rest(3, 1200),))
    now, before = (
        convert.draft_frame_to_proto(frame, protocol_version=version).ByteSize() / num_nodes
        for version in (2, 1)
    )
    assert now <= most
    assert now < before - 2.0
