"""The default model's sampled text is the same with and without drafts.

Sixteen sessions at once, through real processes; in one of the runs the
drafter is killed half-way.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.engine_harness import TIE_TOLERANCE, draw_margin, load_toy, spec
from tests.real.golden import answer, load_golden

from treedraft.core.sampling import SamplingParameters, SpeculationOptions
from treedraft.local_cluster.cluster import LocalCluster
from treedraft.local_cluster.plan import ClusterPlan

pytestmark = pytest.mark.real_model

NUM_TOKENS = 48
MAX_TIES = 4
PLAIN = SpeculationOptions(enabled=False)
VERIFY_ALL = {
    "TREEDRAFT_TARGET__GATE__ENABLED": "false",
    "TREEDRAFT_TARGET__BUDGET__MODE": "fixed",
    "TREEDRAFT_TARGET__BUDGET__MAX_NODES": "6",
}


def laws() -> list[SamplingParameters]:
    """Return sixteen laws: both temperatures, a seed each."""
    return [
        SamplingParameters(temperature=(0.6, 1.0)[index % 2], top_p=0.95, seed=1000 + index)
        for index in range(16)
    ]


async def batch(
    client, prompts, speculation, on_tokens: Callable[[int], None] = lambda _: None
) -> list[list[int]]:
    answers = await asyncio.gather(
        *(
            answer(
                client,
                prompt,
                max_tokens=NUM_TOKENS,
                sampling=law,
                speculation=speculation,
                ignore_eos=True,
                on_tokens=on_tokens,
            )
            for prompt, law in zip(prompts, laws(), strict=False)
        )
    )
    return [one.token_ids for one in answers]


async def batch_with_a_death(cluster, client, prompts) -> list[list[int]]:
    is_half_way = asyncio.Event()

    def watch(num_tokens: int) -> None:
        if num_tokens >= NUM_TOKENS // 2:
            is_half_way.set()

    running = asyncio.create_task(batch(client, prompts, SpeculationOptions(), watch))
    await is_half_way.wait()
    await cluster.kill("draft-0")
    return await running


@pytest.mark.timeout(900)
async def test_sampled_streams_are_identical(default_model, shallow_draft, capsys):
    _, cases = load_golden()
    prompts = [case.prompt_token_ids for case in cases[:16]]
    plan = ClusterPlan(target=str(default_model), draft=str(shallow_draft), settings=VERIFY_ALL)
    async with LocalCluster(plan) as cluster:
        client = cluster.connect()
        plain = await batch(client, prompts, PLAIN)
        runs = {
            "batch of 1": await batch(client, prompts[:1], SpeculationOptions()),
            "tree": await batch(client, prompts, SpeculationOptions()),
            "chain of 2": await batch(client, prompts, SpeculationOptions(max_nodes=2)),
            "drafter killed half-way": await batch_with_a_death(cluster, client, prompts),
        }
        await client.close()
    with capsys.disabled():
        print()
        for name, texts in runs.items():
            ties = count_ties(default_model, prompts, plain, texts)
            print(f"  sampled, {name}: {len(texts)} streams, {ties} end in a proven tie")
            assert ties <= MAX_TIES


def count_ties(folder, prompts, plain, texts) -> int:
    """Return how many streams part at a tie; any other difference fails."""
    ties = 0
    for prompt, law, expected, actual in zip(prompts, laws(), plain, texts, strict=False):
        assert len(actual) == len(expected) == NUM_TOKENS
        if actual == expected:
            continue
        same = next(i for i in range(NUM_TOKENS) if actual[i] != expected[i])
        session = spec(prompt, sampling=replace(law))
        margin = draw_margin(load_toy(folder), session, [*prompt, *expected[:same]])
        assert margin < TIE_TOLERANCE, f"token {same} differs without a tie, margin {margin}"
        ties += 1
    return ties
