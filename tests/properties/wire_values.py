"""Hypothesis' strategies for what targets, drafters and coordinators say to each other."""

from dataclasses import fields, replace

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
from treedraft.core.grammar import Grammar, GrammarKind
from treedraft.core.growth import Growth, SiblingLaw, TokenSource
from treedraft.core.logprobs import TokenLogprobs
from treedraft.core.model_description import ModelDescription
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
from treedraft.core.worker import DrafterAddress

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
