from dataclasses import dataclass, field, replace

import pytest
from pydantic import TypeAdapter

from treedraft.coordinator import repetition
from treedraft.coordinator.repetition import digest_of, session_id_of
from treedraft.coordinator.tenant import Tenant
from treedraft.core.generation import GenerateQuery
from treedraft.core.sampling import SamplingParameters, StoppingCriteria

SAMPLING = SamplingParameters(seed=3, logit_bias=((7, 1.0), (5, -1.0)))
QUERY = GenerateQuery(
    text="hello",
    sampling=SAMPLING,
    stopping=StoppingCriteria(max_tokens=4, stop_token_ids=frozenset({9, 8})),
    idempotency_key="a key",
)


def test_a_digest_is_of_what_is_asked():
    same = replace(
        QUERY, sampling=replace(QUERY.sampling, logit_bias=((5, -1.0), (7, 1.0))), model=""
    )
    assert digest_of(same) == digest_of(QUERY)
    for other in (
        replace(QUERY, text="goodbye"),
        replace(QUERY, choice=1),
        replace(QUERY, sampling=replace(QUERY.sampling, seed=4)),
        replace(QUERY, stopping=StoppingCriteria(max_tokens=5)),
    ):
        assert digest_of(other) != digest_of(QUERY)
    assert digest_of(replace(QUERY, idempotency_key="")) == ""


def test_a_release_whose_queries_say_more_finds_the_digest_of_one_that_knows_less(monkeypatch):
    @dataclass(frozen=True)
    class NewerSampling(SamplingParameters):
        mood: str = "calm"

    @dataclass(frozen=True)
    class NewerQuery(GenerateQuery):
        sampling: NewerSampling = field(default_factory=NewerSampling)
        wishes: tuple[str, ...] = ()

    before = digest_of(QUERY)
    monkeypatch.setattr(repetition, "_QUERY", TypeAdapter(NewerQuery))
    same = NewerQuery(**{**values_of(QUERY), "sampling": NewerSampling(**values_of(SAMPLING))})
    assert digest_of(same) == before
    assert digest_of(replace(same, wishes=("a",))) != before
    assert digest_of(replace(same, sampling=replace(same.sampling, mood="wild"))) != before


def values_of(one) -> dict[str, object]:
    return {name: getattr(one, name) for name in one.__dataclass_fields__}


@pytest.mark.parametrize("other", [Tenant("b", b"salt"), Tenant("a", b"other salt")])
def test_one_key_of_two_tenants_names_two_sessions(other):
    assert session_id_of("key", Tenant("a", b"salt")) != session_id_of("key", other)
