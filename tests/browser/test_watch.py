"""The Watch page: text by origin, the tree of a round, where the time went."""

import pytest
from playwright.async_api import Page, expect
from tests.browser.conftest import Open, Opened, Served

from treedraft.bench.answer import ask
from treedraft.core.generation import GenerateQuery
from treedraft.core.sampling import SamplingParameters, StoppingCriteria

PROMPT = "one two three one two"
NUM_TOKENS = 64
SOURCES = ("draft", "lookup", "target")


async def set_up(page: Page, *, prompt: str = PROMPT, length: int = NUM_TOKENS) -> None:
    await page.fill("#prompt", prompt)
    await page.get_by_label("Continue the text as it is").check()
    await page.get_by_label("Length").fill(str(length))
    await page.get_by_text("More controls").click()
    await page.get_by_label("Go on past the end of the answer").check()


async def generated(page: Page) -> str:
    await expect(page.locator(".ending")).to_contain_text("The text", timeout=30000)
    return await page.locator(".answer").evaluate("(box) => box.textContent")


async def plain_text(served: Served, prompt: str = PROMPT, length: int = NUM_TOKENS) -> str:
    """Return what a client who does not watch gets for the same."""
    query = GenerateQuery(
        text=prompt,
        sampling=SamplingParameters(temperature=0.0),
        stopping=StoppingCriteria(max_tokens=length, ignore_eos=True),
    )
    return (await ask(served.client, query)).text


async def pixels(page: Page) -> int:
    """Return how many pixels of the bars are painted."""
    return await page.locator(".bars canvas").evaluate(
        "(c) => c.getContext('2d').getImageData(0, 20, c.width, c.height - 20).data"
        ".filter((value, index) => index % 4 === 3 && value > 0).length"
    )


async def test_a_text_is_watched_by_mouse(open_console: Open, served: Served):
    page = (await open_console(served.address, color_scheme="light")).page
    await expect(page.locator("svg.primer")).to_be_visible()
    await set_up(page)
    await page.click("#run")
    text = await generated(page)
    assert text == await plain_text(served)

    tokens = page.locator(".answer .tok")
    origins = await tokens.evaluate_all(
        "(all) => all.map((token) => token.className.split(' ')[1])"
    )
    assert set(origins) <= set(SOURCES)
    assert origins.count("draft") > 5
    assert origins.count("target") > 5
    shown = await page.locator(".figures").inner_text()
    assert f"{NUM_TOKENS} tokens in" in shown
    assert await page.locator(".legend li").count() == len(SOURCES)
    assert await pixels(page) > 100
    parts = await page.locator(".parts dt").all_inner_texts()
    assert sorted(parts) == ["commit", "draft", "forward", "queue", "walk", "wire"]
    assert "–" not in await page.locator(".parts").inner_text()


async def test_a_chosen_token_shows_its_round(open_console: Open, served: Served):
    page = (await open_console(served.address)).page
    await set_up(page)
    await page.click("#run")
    await generated(page)
    drafted = page.locator(".answer .tok.draft").nth(2)
    await drafted.click()
    tree = page.locator("svg.tree")
    marked = await page.locator(".answer .tok.of-round").all_text_contents()
    assert await drafted.text_content() in marked
    kept = await tree.locator(".node.kept .label").all_text_contents()
    assert len(kept) == len(marked)
    assert kept[-1].strip("…") in marked[-1].strip() or "↵" in kept[-1] or "␣" in kept[-1]
    assert await tree.locator(".node.target.kept").count() == 1
    assert await tree.locator(".node.pruned").count() >= 1
    await expect(tree).to_have_class("tree settled")
    opacity = "(node) => Number(getComputedStyle(node).opacity)"
    await page.wait_for_function(
        "() => getComputedStyle(document.querySelector('svg.tree .node.pruned')).opacity < 0.6"
    )
    assert await tree.locator(".node.kept").first.evaluate(opacity) == 1.0
    assert "checked in one pass" in await page.locator(".caption").inner_text()
    label = await tree.get_attribute("aria-label")
    assert "guesses, path" in label

    before = await page.locator(".round-number").inner_text()
    await page.get_by_label("Round after").click()
    assert await page.locator(".round-number").inner_text() != before
    await page.locator(".bars canvas").click(position={"x": 5, "y": 60})
    assert (await page.locator(".round-number").inner_text()).startswith("1 /")
    await page.click("#follow")
    assert await page.locator("#follow").get_attribute("aria-pressed") == "true"


async def test_all_of_it_by_keyboard_and_in_the_dark(open_console: Open, served: Served):
    page = (await open_console(served.address, color_scheme="dark")).page
    assert await page.locator("html").get_attribute("data-theme") == "dark"
    await page.keyboard.press("Tab")
    assert await focused(page) == "Skip to the page"
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.id") == "prompt"
    await page.keyboard.press("Control+A")
    await page.keyboard.type("three two one")
    await tab_to(page, "name", "max_tokens")
    await page.keyboard.press("Home")
    for _ in range(5):
        await page.keyboard.press("ArrowRight")
    await tab_to(page, "name", "raw")
    await page.keyboard.press("Space")
    await tab_to(page, "id", "run")
    await page.keyboard.press("Enter")
    await generated(page)

    await tab_to(page, "class", "answer")
    await page.keyboard.press("End")
    last = await page.locator(".round-number").inner_text()
    await page.keyboard.press("Home")
    first = await page.locator(".round-number").inner_text()
    assert first.startswith("1 /")
    assert first != last
    assert await page.locator(".answer .tok.chosen").count() == 1
    await tab_to(page, "id", "round-range")
    await page.keyboard.press("ArrowRight")
    assert (await page.locator(".round-number").inner_text()).startswith("2 /")
    await tab_to(page, "id", "follow")
    await page.keyboard.press("Enter")
    assert await page.locator(".round-number").inner_text() == last


async def tab_to(page: Page, attribute: str, value: str) -> None:
    """Press Tab until the element that has this is focused."""
    for _ in range(60):
        await page.keyboard.press("Tab")
        if await page.evaluate("(a) => document.activeElement.getAttribute(a)", attribute) == value:
            return
    raise AssertionError(f"the keyboard does not reach {value}")


async def focused(page: Page) -> str:
    return await page.evaluate("document.activeElement.textContent")


async def test_a_text_is_stopped(open_console: Open, served: Served):
    page = (await open_console(served.address)).page
    await set_up(page, length=1500)
    await page.click("#run")
    await page.locator(".answer .tok").nth(3).wait_for()
    await page.click("#stop")
    await expect(page.locator("[role=status]").first).to_have_text("stopped")
    await expect(page.locator("#run")).to_be_enabled()
    assert await page.locator(".answer .tok").count() < 1500


async def test_without_speculation_each_token_is_the_targets(open_console: Open, served: Served):
    page = (await open_console(served.address)).page
    await set_up(page, length=16)
    await page.get_by_label("Speculation", exact=True).uncheck()
    await page.click("#run")
    assert await generated(page) == await plain_text(served, length=16)
    tokens = page.locator(".answer .tok")
    assert await page.locator(".answer .tok.target").count() == await tokens.count() > 0
    assert "plain step" in await page.locator(".caption").inner_text()


@pytest.mark.parametrize("width", [390, 1920])
async def test_it_fits_the_window(open_console: Open, served: Served, width):
    opened: Opened = await open_console(served.address, viewport={"width": width, "height": 800})
    for name in ("watch", "race", "cluster", "traces"):
        await opened.page.evaluate("(name) => { location.hash = `#/${name}`; }", name)
        await opened.page.locator("h1").wait_for()
        if name == "cluster":  # its tables are wider than words
            await opened.page.locator("tbody tr").first.wait_for()
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert await opened.page.evaluate(wide) <= 0, name
