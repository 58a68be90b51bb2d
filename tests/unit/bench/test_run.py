import asyncio

import pytest

from treedraft.bench.answer import Answer, ask
from treedraft.bench.baseline import BaselineResult
from treedraft.bench.plan import PLAIN, SPECULATIVE, TRANSFORMERS, BenchPlan
from treedraft.bench.prompts import PROMPTS, conversations
from treedraft.bench.run import Bench, plan_cluster, summarise
from treedraft.core.errors import UnavailableError
from treedraft.core.generation import Delta, Finished, GenerateQuery, Started
from treedraft.core.growth import TokenSource
from treedraft.core.session import FinishReason, RoundTimes, SessionStatistics
from treedraft.draft.settings import DraftSettings
from treedraft.local_cluster.plan import plan_workers

PROMPT_IDS = (1, 2, 3)


def events(token_ids, **statistics):
    yield Started("s", 7, PROMPT_IDS, "t", "m")
    for index, token_id in enumerate(token_ids):
        yield Delta(index, (token_id,), (TokenSource.TARGET,), f"<{token_id}>")
    known = SessionStatistics(emitted_tokens=len(token_ids), **statistics)
    yield Finished(FinishReason.LENGTH, known, 50.0)


class FakeClient:
    """Answers with the tokens 0, 1, 2…, and keeps what it was asked."""

    def __init__(self, *, truncated=False):
        self.queries = []
        self.num_running = self.max_running = 0
        self._truncated = truncated

    async def generate(self, query, *, timeout_seconds=None, traceparent=""):
        self.queries.append(query)
        self.num_running += 1
        self.max_running = max(self.max_running, self.num_running)
        answer = list(events(range(query.stopping.max_tokens or 3), rounds=2, hits=1, misses=1))
        for event in answer[:-1] if self._truncated else answer:
            await asyncio.sleep(0)
            yield event
        self.num_running -= 1


class FakeBaseline:
    """Says the same, but for every second prompt."""

    def __init__(self):
        self.batches = []

    async def generate(self, prompts, num_tokens):
        self.batches.append(len(prompts))
        good = tuple(range(num_tokens))
        ids = [good if len(self.batches) % 2 else (*good[:-1], 99) for _ in prompts]
        return BaselineResult(2.0, (PROMPT_IDS,) * len(prompts), tuple(ids))


@pytest.fixture
def bench():
    times = iter(range(0, 1000, 4))
    plan = BenchPlan(num_tokens=5)
    return Bench(plan, FakeClient(), FakeBaseline(), clock=lambda: next(times))


async def test_an_answer_is_the_sum_of_its_events():
    shown = []
    answer = await ask(FakeClient(), GenerateQuery(text="x"), on_delta=shown.append)
    assert answer.token_ids == (0, 1, 2)
    assert answer.text == "<0><1><2>"
    assert [delta.base_length for delta in shown] == [0, 1, 2]


async def test_a_stream_that_breaks_off_is_an_error():
    with pytest.raises(UnavailableError) as caught:
        await ask(FakeClient(truncated=True), GenerateQuery(text="x"))
    assert caught.value.reason == "STREAM_ENDED"


async def test_the_check_counts_what_is_equal(bench):
    check = await bench.check()
    assert check.num_prompts == 6
    assert check.speculative_equals_plain == 6
    assert check.plain_equals_transformers == 3
    assert check.same_prompt_ids == 6


async def test_requests_run_as_many_at_once_as_asked(bench):
    sample = await bench.measure(SPECULATIVE, 8, 0)
    assert bench._client.max_running == 8
    assert all(query.speculation.enabled for query in bench._client.queries)
    assert sample.num_tokens == 8 * 5
    assert sample.tokens_per_second == 8 * 5 / 4


async def test_a_single_stream_goes_one_by_one(bench):
    sample = await bench.measure(PLAIN, 1, 0)
    assert bench._client.max_running == 1
    assert len(bench._client.queries) == 3
    assert not any(query.speculation.enabled for query in bench._client.queries)
    assert sample.hit_rate is None


async def test_transformers_gets_the_same_batches(bench):
    sample = await bench.measure(TRANSFORMERS, 8, 0)
    assert bench._baseline.batches == [8]
    assert sample.tokens_per_second == 8 * 5 / 2.0


async def test_every_measurement_has_prompts_of_its_own(bench):
    for repeat in range(2):
        for system in (PLAIN, SPECULATIVE):
            await bench.measure(system, 8, repeat)
    firsts = [query.conversation[0].content for query in bench._client.queries]
    assert len(set(firsts)) == len(firsts) == 32


def test_a_drafter_cannot_recite_the_answers_of_earlier_repeats(tmp_path, monkeypatch):
    plan = plan_cluster(BenchPlan(draft="m", num_threads=1), tmp_path)
    assert (plan.target, plan.draft, plan.target_threads) == (str(tmp_path), "m", 1)
    users = {"TREEDRAFT_DRAFT__LOOKUP__RECENT__ENABLED": "true"}
    _, draft = plan_workers(plan, "host:1", tmp_path, users, num_cores=2)
    for name, value in draft.environment.items():
        monkeypatch.setenv(name, value)
    lookup = DraftSettings().lookup
    assert (lookup.enabled, lookup.recent.enabled) == (True, False)


def test_prompts_are_distinct_up_to_the_largest_load():
    users = [messages[-1].content for messages in conversations(32)]
    assert len(set(users)) == 32 <= len(PROMPTS)


def test_means_weigh_rounds():
    answers = [
        Answer(*answer_parts(num_rounds, forward)) for num_rounds, forward in ((1, 10.0), (3, 2.0))
    ]
    sample = summarise(answers, SPECULATIVE, 2, seconds=2.0)
    assert sample.round_ms["forward"] == pytest.approx((10.0 + 3 * 2.0) / 4)
    assert sample.tokens_per_round == pytest.approx(8 / 4)
    assert sample.hit_rate == pytest.approx(2 / 4)


def answer_parts(num_rounds, forward):
    times = RoundTimes(forward=forward)
    started, *deltas, finished = events(
        range(4), rounds=num_rounds, hits=1, misses=num_rounds - 1, round_ms=times
    )
    ids = tuple(delta.token_ids[0] for delta in deltas)
    return started, finished, ids, (TokenSource.TARGET,) * 4, "text"


async def test_the_engine_can_be_compared_with_itself_alone():
    plan = BenchPlan(num_tokens=5, with_transformers=False)
    assert plan.systems == (PLAIN, SPECULATIVE)
    check = await Bench(plan, FakeClient(), None).check()
    assert check.speculative_equals_plain == 6
    assert check.plain_equals_transformers is None
