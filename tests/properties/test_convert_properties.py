"""Every value survives the wire: to_proto, bytes, from_proto."""

import math
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treedraft.core.exchange import (
    Commit,
    CoordinatorFrame,
    DraftFrame,
    Economics,
    Hello,
    LogAcknowledgement,
    ReopenRequest,
    Rest,
    SessionOpen,
    SessionRefusal,
    SharedTokenizer,
    TargetFrame,
)
from treedraft.core.generation import (
    ChatMessage,
    Delta,
    Finished,
    GenerateQuery,
    ResumeQuery,
    ServedModel,
    Started,
)
from treedraft.core.grammar import Grammar, GrammarKind
from treedraft.core.growth import Growth, SiblingLaw, TokenSource
from treedraft.core.logprobs import TokenLogprobs
from treedraft.core.model_description import ModelDescription
from treedraft.core.rollout import (
    Pairing,
    PairingCounts,
    Pool,
    PoolStatus,
    RolloutDescription,
    WeightChange,
)
from treedraft.core.sampling import (
    SamplingParameters,
    SpeculationOptions,
    StoppingCriteria,
    Verification,
)
from treedraft.core.session import (
    DraftSpec,
    FinishReason,
    RoundReport,
    RoundTimes,
    SessionFailure,
    SessionFinish,
    SessionOutput,
    SessionSpec,
    SessionStatistics,
)
from treedraft.core.tools import Tool, ToolCall, ToolCallPiece, ToolChoice, ToolOffer
from treedraft.core.worker import (
    ClusterDescription,
    DrafterAddress,
    LoadSignals,
    WorkerRegistration,
    WorkerReport,
    WorkerRole,
)
from treedraft.rpc import convert

uint32 = st.integers(0, 2**32 - 1)
uint64 = st.integers(0, 2**64 - 1)
token_ids = st.lists(uint32, max_size=8).map(tuple)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
number = st.floats(allow_nan=False, allow_infinity=False)
float32 = st.floats(width=32, allow_nan=False)
penalty = st.floats(-2, 2)


def tuples(elements, max_size=3):
    return st.lists(elements, max_size=max_size).map(tuple)


samplings = st.builds(
    SamplingParameters,
    temperature=st.floats(0, 10),
    top_k=uint32,
    top_p=st.floats(0, 1, exclude_min=True),
    min_p=st.floats(0, 1),
    repetition_penalty=st.floats(0.01, 100),
    presence_penalty=penalty,
    frequency_penalty=penalty,
    logit_bias=st.dictionaries(uint32, st.floats(-100, 100), max_size=4).map(
        lambda bias: tuple(sorted(bias.items()))
    ),
    seed=st.none() | uint64,
    grammar=st.none() | st.builds(Grammar, st.sampled_from(GrammarKind), text.filter(bool)),
    verification=st.sampled_from(Verification),
)
stoppings = st.builds(
    StoppingCriteria,
    max_tokens=st.none() | st.integers(1, 2**32 - 1),
    stop_strings=tuples(text.filter(bool)),
    stop_token_ids=st.frozensets(uint32, max_size=4),
    ignore_eos=st.booleans(),
    min_tokens=st.integers(0, 1),
)
speculations = st.builds(
    SpeculationOptions,
    enabled=st.booleans(),
    max_nodes=st.none() | st.integers(0, 256),
    max_depth=st.none() | st.integers(0, 64),
    lookup=st.booleans(),
)
statistics = st.builds(
    SessionStatistics,
    **{item.name: uint32 for item in fields(SessionStatistics) if item.type is int},
    first_token_ms=number,
    decode_ms=number,
    round_ms=st.builds(RoundTimes, *[number] * 6),
    accepted_lengths=tuples(uint32),
    accepted_lengths_by_depth=tuples(tuples(uint32)),
)
source_lists = tuples(st.sampled_from(TokenSource), max_size=20)
addresses = st.builds(DrafterAddress, text, text, text)
# A power of two of a second has no rounding in whole nanoseconds.
durations = st.integers(0, 10**6).map(lambda ticks: ticks / 512)
session_specs = st.builds(
    SessionSpec,
    session_id=text,
    epoch=uint64,
    token_ids=token_ids,
    prompt_length=uint32,
    sampling=samplings,
    stopping=stoppings,
    speculation=speculations,
    choice=uint32,
    tenant_salt=st.binary(max_size=8),
    drafters=tuples(addresses),
    traceparent=text,
    time_limit_seconds=st.none() | durations,
    watch_rounds=st.booleans(),
    num_logprobs=st.none() | st.integers(0, 20),
)
draft_specs = st.builds(
    DraftSpec,
    session_id=text,
    token_ids=token_ids,
    prompt_length=uint32,
    sampling=samplings,
    speculation=speculations,
    choice=uint32,
    tenant_salt=st.binary(max_size=8),
    traceparent=text,
)
hellos = st.builds(Hello, text, text, text, uint32, text, uint32, uint32)
laws = st.builds(SiblingLaw, uint32, uint32, token_ids, tuples(float32))
growths = st.builds(
    Growth,
    session_number=uint32,
    base_length=uint32,
    first_node_id=uint32,
    parent_offsets=token_ids,
    token_ids=token_ids,
    scores=tuples(float32, max_size=8),
    sources=source_lists,
    sibling_laws=tuples(laws),
    draft_us=uint32,
    held_us=uint32,
    rescored_ids=token_ids,
    rescored_scores=tuples(float32),
)
target_frames = st.builds(
    TargetFrame,
    hello=st.none() | hellos,
    tokenizer=st.none() | st.builds(SharedTokenizer, text, tuples(uint32)),
    opens=tuples(st.builds(SessionOpen, uint32, draft_specs), max_size=2),
    commits=tuples(st.builds(Commit, uint32, uint32, token_ids)),
    closes=token_ids,
    credit_nodes=uint32,
    economics=st.builds(Economics, uint32, uint32),
    pauses=token_ids,
)
draft_frames = st.builds(
    DraftFrame,
    hello=st.none() | hellos,
    growths=tuples(growths),
    reopens=tuples(st.builds(ReopenRequest, uint32, uint32)),
    refusals=tuples(st.builds(SessionRefusal, uint32, text)),
    rests=tuples(st.builds(Rest, uint32, uint32)),
)
coordinator_frames = st.builds(
    CoordinatorFrame,
    coordinator_id=text,
    starts=tuples(session_specs, max_size=2),
    cancels=tuples(text),
    acknowledgements=tuples(st.builds(LogAcknowledgement, text, uint32)),
)


@st.composite
def round_reports(draw):
    count = draw(st.integers(0, 8))

    def one_each(elements):
        return draw(st.lists(elements, min_size=count, max_size=count).map(tuple))

    return RoundReport(
        base_length=draw(uint32),
        parents=tuple(draw(st.integers(-1, node - 1)) for node in range(count)),
        token_ids=one_each(uint32),
        scores=one_each(float32),
        sources=one_each(st.sampled_from(TokenSource)),
        accepted=tuple(sorted(draw(st.frozensets(st.integers(0, count - 1))))) if count else (),
        bonus_token_id=draw(st.none() | uint32),
        is_hit=draw(st.none() | st.booleans()),
        drafted_nodes=draw(uint32),
        late_nodes=draw(uint32),
        times=draw(st.builds(RoundTimes, *[number] * 6)),
    )


@st.composite
def perhaps_with_logprobs(draw, values):
    value = draw(values)
    if not draw(st.booleans()):
        return value
    top = tuples(st.tuples(uint32, float32))
    return replace(
        value,
        logprobs=tuple(TokenLogprobs(draw(float32), draw(top)) for _ in value.token_ids),
    )


outputs = tuples(
    st.builds(
        SessionOutput,
        session_id=text,
        epoch=uint64,
        base_length=uint32,
        token_ids=token_ids,
        sources=source_lists,
        finish=st.none() | st.builds(SessionFinish, st.sampled_from(FinishReason), statistics),
        failure=st.none() | st.builds(SessionFailure, text, text),
        round=st.none() | round_reports(),
    ).flatmap(lambda value: perhaps_with_logprobs(st.just(value)))
)
descriptions = st.builds(
    ModelDescription,
    model=text,
    fingerprint=text,
    tokenizer_hash=text,
    vocab_size=uint32,
    context_length=uint32,
    max_prompt_tokens=uint32,
    eos_token_ids=st.frozensets(uint32, max_size=3),
    tokenizer_json=text,
    chat_template=text,
    special_tokens=st.dictionaries(text, text, max_size=3),
    block_size=uint32,
    adds_bos=st.booleans(),
)
messages = st.builds(
    ChatMessage, text, text, tuples(st.builds(ToolCall, text, text, text)), text, text
)
tools = st.builds(
    Tool,
    st.from_regex("[A-Za-z0-9_-]{1,64}", fullmatch=True),
    text,
    st.sampled_from(["", "{}", '{"type": "object"}']),
    st.booleans(),
)
offers = st.lists(tools, min_size=1, max_size=3, unique_by=lambda tool: tool.name).flatmap(
    lambda some: st.one_of(
        st.builds(
            ToolOffer, st.just(tuple(some)), st.sampled_from(ToolChoice), is_parallel=st.booleans()
        ),
        st.just(ToolOffer(tuple(some), ToolChoice.REQUIRED, some[0].name)),
    )
)
pieces = st.builds(ToolCallPiece, uint32, text, text, text)
inputs = st.one_of(
    st.fixed_dictionaries({"text": text}),
    st.fixed_dictionaries({"token_ids": token_ids}),
    st.fixed_dictionaries({"conversation": tuples(messages)}),
)
queries = st.builds(
    lambda chosen, **rest: GenerateQuery(**chosen, **rest),
    inputs,
    model=text,
    sampling=samplings,
    stopping=stoppings,
    speculation=speculations,
    watch_rounds=st.booleans(),
    idempotency_key=st.text(max_size=128),
    choice=st.integers(0, 63),
    num_logprobs=st.none() | st.integers(0, 20),
    tools=st.none() | offers,
)
events = st.one_of(
    st.builds(Started, text, uint64, token_ids, text, text),
    perhaps_with_logprobs(
        st.builds(
            Delta,
            uint32,
            token_ids,
            source_lists,
            text,
            tuples(round_reports(), 2),
            source_lists,
            tool_calls=tuples(pieces, 3),
        )
    ),
    st.builds(Finished, st.sampled_from(FinishReason), statistics, number, st.booleans()),
)
registrations = st.builds(
    WorkerRegistration,
    text,
    text,
    st.sampled_from(WorkerRole),
    text,
    text,
    text,
    text,
    uint32,
    text,
    st.floats(0.0, 1e6),
)
pools = st.builds(Pool, st.sampled_from(["target", "draft"]), text)
amounts = st.floats(0.0, 1e9)
rollouts = st.builds(
    RolloutDescription,
    tuples(st.builds(PoolStatus, pools, amounts, amounts, tuples(text), uint32, uint32, uint32)),
    tuples(
        st.tuples(
            st.builds(Pairing, text, text, tuples(text)),
            st.builds(PairingCounts, *[st.integers(0, 2**64 - 1)] * 7),
        )
    ),
    amounts,
)
weights = tuples(st.builds(WeightChange, pools, st.none() | amounts))
reports = st.builds(
    WorkerReport,
    uint32,
    uint32,
    uint32,
    uint32,
    st.booleans(),
    tuples(uint64),
    tuples(uint64),
    st.builds(LoadSignals, *[st.floats(0.0, 1e9)] * 9),
    uint32,
)
clusters = st.builds(
    ClusterDescription,
    tuples(st.tuples(registrations, reports)),
    uint32,
    uint32,
    tuples(st.tuples(text, uint64)),
)
served_models = st.lists(st.builds(ServedModel, text, uint32, uint32, uint32), max_size=3)


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
