"""The tree while a text is being written, round by round as a test says them."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest_asyncio
from playwright.async_api import expect
from tests.browser.conftest import Open
from tests.unit.coordinator.cluster import Cluster, a_cluster
from tests.unit.coordinator.support import FakeTarget, encode, output

from treedraft.core.growth import TokenSource
from treedraft.core.session import FinishReason, RoundReport, RoundTimes

DRAFT, LOOKUP, TARGET = TokenSource.DRAFT_MODEL, TokenSource.LOOKUP, TokenSource.TARGET


@pytest_asyncio.fixture(loop_scope="session")
async def cluster() -> AsyncIterator[Cluster]:
    async with a_cluster() as cluster:
        yield cluster


def a_round(spec, base: int, report: RoundReport, sources, text: str, reason=None):
    """Return what a target says of a round: tokens, their sources, the report."""
    report = replace(report, base_length=spec.prompt_length + base)
    return replace(output(spec, base, encode(text), reason), sources=sources, round=report)


def branching() -> RoundReport:
    """A tree of `ab`, `ac` and `x`, of which `ac` came true and then `!`."""
    a, b, c, x, bonus = encode("abcx!")
    return RoundReport(
        base_length=1,
        parents=(-1, 0, 0, -1),
        token_ids=(a, b, c, x),
        scores=(-0.1, -0.3, -0.9, -2.0),
        sources=(DRAFT, DRAFT, LOOKUP, DRAFT),
        accepted=(0, 2),
        bonus_token_id=bonus,
        is_hit=False,
        drafted_nodes=6,
        late_nodes=2,
        times=RoundTimes(draft=4.0, wire=1.0, queue=2.0, forward=20.0, walk=1.0, commit=0.5),
    )


async def test_rounds_are_seen_as_they_come(open_console: Open, cluster: Cluster):
    target = FakeTarget()
    await cluster.add_target(target)
    page = (await open_console(cluster.address)).page
    await page.click("#run")
    spec = await target.session()
    assert spec.watch_rounds
    target.say(a_round(spec, 0, branching(), (DRAFT, LOOKUP, TARGET), "ac!"))

    tree = page.locator("svg.tree")
    await expect(tree.locator(".node")).to_have_count(5)
    await expect(page.locator("#stop")).to_be_enabled()  # the text goes on
    kept = await tree.locator(".node.kept .label").all_text_contents()
    assert kept == ["a", "c", "!"]
    assert await tree.locator(".node.pruned .label").all_text_contents() == ["b", "x"]
    assert await tree.locator(".edge.kept").count() == 3
    heights = await tree.locator(".node.kept .shape").evaluate_all(
        "(all) => all.map((box) => box.getAttribute('y'))"
    )
    assert len(set(heights)) == 1  # the path runs straight
    classes = await page.locator(".answer .tok").evaluate_all(
        "(all) => all.map((t) => t.className)"
    )
    assert [name.split()[1] for name in classes] == ["draft", "lookup", "target"]
    caption = await page.locator(".caption").inner_text()
    assert "4 guesses were checked in one pass: 2 were right" in caption
    assert "2 guesses came too late" in caption
    parts = await page.locator(".parts > div").all_inner_texts()
    assert any("forward" in part and "20.0 ms" in part for part in parts)

    plain = RoundReport(base_length=1, bonus_token_id=encode("?")[0])
    target.say(a_round(spec, 3, plain, (TARGET,), "?", FinishReason.STOP))
    await expect(page.locator(".round-number")).to_have_text("2 / 2")
    await expect(page.locator(".caption")).to_contain_text("plain step")
    await expect(page.locator(".ending")).to_contain_text("The text ended by itself.")


async def test_one_of_several_models_is_chosen(open_console: Open, cluster: Cluster):
    targets = {name: FakeTarget() for name in ("one", "two")}
    for name, target in targets.items():
        await cluster.add_target(target, worker_id=f"t-{name}", model=name)
    page = (await open_console(cluster.address)).page
    await page.get_by_label("Model", exact=True).select_option("two")
    await page.click("#run")
    spec = await targets["two"].session()
    assert targets["one"].started == {}
    target = targets["two"]
    target.say(output(spec, 0, encode("hi"), FinishReason.STOP))
    await expect(page.locator(".ending")).to_contain_text("The text ended by itself.")
