"""Hypothesis' strategies for what clients ask, and what they are told of the cluster."""

from hypothesis import strategies as st
from tests.properties.wire_values import (
    number,
    perhaps_with_logprobs,
    round_reports,
    samplings,
    source_lists,
    speculations,
    statistics,
    stoppings,
    text,
    token_ids,
    tuples,
    uint32,
    uint64,
)

from treedraft.core.generation import (
    ChatMessage,
    Delta,
    Finished,
    GenerateQuery,
    ServedModel,
    Started,
)
from treedraft.core.rollout import (
    Pairing,
    PairingCounts,
    Pool,
    PoolStatus,
    RolloutDescription,
    WeightChange,
)
from treedraft.core.session import FinishReason
from treedraft.core.tools import Tool, ToolCall, ToolCallPiece, ToolChoice, ToolOffer
from treedraft.core.worker import (
    ClusterDescription,
    LoadSignals,
    WorkerRegistration,
    WorkerReport,
    WorkerRole,
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
