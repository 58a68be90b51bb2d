"""Runs settings for real: the services as processes, with and without speculation in turns.

Both answers to a prompt come from one cluster, one right after the other and in
changing order, so that a machine whose speed drifts is slow for both. The pass over
the prompt is in neither time: the second of two equal prompts finds its pages.

Invariant: no drafter has seen the text that it is measured on. The prompt that warms
up is not among those that count, and recent traffic is off.
"""

from collections.abc import Mapping, Sequence

from treedraft.bench.answer import Answer, ask
from treedraft.bench.plan import WITHOUT_RECENT_TRAFFIC
from treedraft.bench.tuning.plan import TunePlan, spread
from treedraft.bench.tuning.result import Confirmation
from treedraft.core.generation import ChatMessage, GenerateQuery
from treedraft.core.sampling import SamplingParameters, SpeculationOptions, StoppingCriteria
from treedraft.local_cluster.cluster import LocalCluster, Progress
from treedraft.local_cluster.plan import ClusterPlan
from treedraft.rpc.coordinator_client import CoordinatorClient
from treedraft.training.evaluation.tree_length import TreeShape

_SEED = 1
# Warms up where all prompts are measured.
_SPARE_PROMPT = "Say in a few sentences what a good morning looks like to you."


def cluster_plan(plan: TunePlan, draft: str, environment: Mapping[str, str]) -> ClusterPlan:
    """Return the processes that a setting is run with."""
    return ClusterPlan(
        target=plan.target,
        draft=draft,
        dtype=plan.dtype,
        device=plan.device,
        settings={**environment, **WITHOUT_RECENT_TRAFFIC},
    )


async def confirm(
    plan: TunePlan,
    draft: str,
    shape: TreeShape | None,
    environment: Mapping[str, str],
    progress: Progress,
) -> Confirmation:
    """Run one setting.

    Args:
        plan: prompts, length and models.
        draft: source of the drafter; empty is lookup.
        shape: what the setting is meant to make; None for the defaults.
        environment: the setting.
        progress: told in words how far it is.

    Raises:
        TreedraftError: a process cannot be started or dies.
    """
    prompts = spread(plan.prompts, plan.confirmed_prompts)
    async with LocalCluster(cluster_plan(plan, draft, environment), progress=progress) as cluster:
        client = cluster.connect()
        try:
            progress("warming up")  # what is slow the first time, and what learns
            await _ask_both(client, plan, warm_up_prompt(plan), 0)
            pairs = []
            for number, prompt in enumerate(prompts, 1):
                progress(f"prompt {number} of {len(prompts)}")
                pairs.append(await _ask_both(client, plan, prompt.text, number))
        finally:
            await client.close()
    return summarise(draft, shape, environment, pairs)


def warm_up_prompt(plan: TunePlan) -> str:
    """Return a prompt that is not measured: the next one of the plan, if it has more."""
    measured = {prompt.text for prompt in spread(plan.prompts, plan.confirmed_prompts)}
    others = (prompt.text for prompt in spread(plan.prompts, len(plan.prompts)))
    return next((text for text in others if text not in measured), _SPARE_PROMPT)


_Pair = dict[bool, Answer]
"""The answers to one prompt, by whether drafts were used."""


async def _ask_both(client: CoordinatorClient, plan: TunePlan, text: str, index: int) -> _Pair:
    order = (False, True) if index % 2 else (True, False)
    return {
        is_speculative: await ask(client, _query(plan, text, is_speculative=is_speculative))
        for is_speculative in order
    }


def _query(plan: TunePlan, text: str, *, is_speculative: bool) -> GenerateQuery:
    return GenerateQuery(
        conversation=(ChatMessage("user", text),),
        sampling=SamplingParameters(temperature=plan.temperature, seed=_SEED),
        stopping=StoppingCriteria(max_tokens=plan.num_tokens, ignore_eos=True),
        speculation=SpeculationOptions(enabled=is_speculative),
    )


def summarise(
    draft: str, shape: TreeShape | None, environment: Mapping[str, str], pairs: Sequence[_Pair]
) -> Confirmation:
    """Return what answers amount to."""
    drafted = [pair[True].finished.statistics for pair in pairs]
    num_rounds = sum(statistics.rounds for statistics in drafted)
    return Confirmation(
        draft=draft,
        shape=shape,
        environment=dict(environment),
        plain_tokens_per_second=_speed([pair[False] for pair in pairs]),
        tokens_per_second=_speed([pair[True] for pair in pairs]),
        tau=sum(statistics.emitted_tokens for statistics in drafted) / max(1, num_rounds),
        num_texts=len(pairs),
        num_equal=sum(pair[True].token_ids == pair[False].token_ids for pair in pairs),
    )


def _speed(answers: Sequence[Answer]) -> float:
    """Return tokens per second of decoding, those of the pass over the prompt not counted."""
    statistics = [answer.finished.statistics for answer in answers]
    num_tokens = sum(entry.emitted_tokens - max(entry.first_tokens, 1) for entry in statistics)
    milliseconds = sum(entry.decode_ms for entry in statistics)
    return num_tokens / milliseconds * 1e3 if milliseconds > 0.0 else 0.0
