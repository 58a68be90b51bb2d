"""Race, Cluster and Traces; first paint, themes, hostile text, keys."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import expect
from tests.browser.conftest import Open, Served
from tests.browser.test_watch import generated, set_up, tab_to
from tests.integration.test_watched_rounds import tells_rounds
from tests.unit.coordinator.cluster import Cluster, a_cluster
from tests.unit.coordinator.support import FakeTarget

from treedraft.coordinator.api_keys import key_line, new_key

HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=2</script>'


async def test_first_paint_is_quick(open_console: Open, served: Served, record_property):
    """At most a second on this machine, the best of three: others may be using it."""
    paints = []
    for _ in range(3):
        page = (await open_console(served.address)).page
        paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
        await page.wait_for_function(f"() => {paint} > 0")
        paints.append(await page.evaluate(paint))
    shown = ", ".join(f"{paint:.0f}" for paint in paints)
    record_property("first contentful paint of the console", f"{shown} ms (wanted: 1000)")
    assert min(paints) <= 1000


async def test_a_race_ends_with_the_same_text(open_console: Open, served: Served):
    page = (await open_console(served.address, "#/race")).page
    await set_up(page)
    await page.click("#run")
    verdict = page.locator(".verdict")
    await expect(verdict.locator("strong")).to_contain_text("×", timeout=60000)
    await expect(verdict.locator(".chip.good")).to_contain_text("the same text")
    texts = await page.locator(".lane .answer").all_text_contents()
    assert texts[0] == texts[1] != ""
    fast, plain = page.locator(".lane-fast"), page.locator(".lane-plain")
    assert await fast.locator(".tok:not(.target)").count() > 0
    assert await plain.locator(".tok:not(.target)").count() == 0
    assert await page.locator(".chart canvas").count() == 1
    assert "per pass" in await verdict.inner_text()


async def test_the_cluster_is_seen_while_it_works(open_console: Open, served: Served):
    page = (await open_console(served.address, "#/cluster")).page
    rows = page.locator("[aria-labelledby=workers-title] tbody tr")
    await expect(rows).to_have_count(2)
    assert sorted(await rows.locator(".role").all_inner_texts()) == ["draft", "target"]
    await expect(page.locator(".chart canvas")).to_have_count(4)
    assert await page.locator(".meter").first.get_attribute("aria-label")
    other = (await open_console(served.address)).page
    await set_up(other, length=512)
    sessions = page.locator("[aria-labelledby=sessions-title] tbody tr")
    for _ in range(20):  # a toy is quick: ask until a look at the cluster meets an answer
        await other.click("#run")
        try:
            await expect(sessions).to_have_count(1, timeout=1500)
            break
        except AssertionError:
            await expect(other.locator("#run")).to_be_enabled(timeout=30000)
    else:
        pytest.fail("no session was ever seen")


async def test_a_trace_is_drawn_and_opened_by_keyboard(open_console: Open, served: Served):
    page = (await open_console(served.address)).page
    await set_up(page)
    await page.click("#run")
    await generated(page)
    await page.get_by_role("link", name="its trace").click()
    rows = page.locator(".waterfall .span-row")
    await rows.nth(5).wait_for()
    names = await page.locator(".span-name").all_inner_texts()
    assert names[0] == "generate"
    assert {"admit", "place", "session", "round"} <= set(names)
    assert await page.locator("rect.part-forward").count() > 3
    assert "tokens per pass" in await page.locator(".shares").inner_text()
    folded = page.get_by_role("button", name="more of round")
    before = await rows.count()
    await folded.focus()
    await page.keyboard.press("Enter")
    assert await rows.count() > before
    await page.locator(".span-name").first.press("Enter")
    await expect(page.locator(".span-detail")).to_contain_text("output_tokens")
    await page.get_by_role("link", name="all traces").click()
    await expect(page.locator("tbody tr").first).to_contain_text("length")


async def test_pages_and_themes_by_keyboard(open_console: Open, served: Served):
    page = (await open_console(served.address, color_scheme="light")).page
    for name in ("race", "cluster", "traces", "watch"):
        await tab_to(page, "href", f"#/{name}")
        await page.keyboard.press("Enter")
        await expect(page.locator("nav [aria-current=page]")).to_have_text(name.capitalize())
    await tab_to(page, "id", "theme-button")
    themes = []
    for _ in range(3):
        await page.keyboard.press("Enter")
        themes.append(await page.locator("html").get_attribute("data-theme"))
    assert themes == ["light", "dark", "light"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_words_can_be_told_from_their_ground(open_console: Open, served: Served, scheme):
    """At least 4.5 to 1, as WCAG wants; and sources differ by more than their colour."""
    page = (await open_console(served.address, color_scheme=scheme)).page
    samples = await page.evaluate(_SAMPLES)
    assert len(samples) == 5
    for name, ink, ground in samples:
        assert contrast(ink, ground) >= 4.5, (name, ink, ground)
    borders = await page.locator(".legend .tok").evaluate_all(
        "(all) => all.map((one) => getComputedStyle(one).borderBottomStyle"
        " + getComputedStyle(one).borderBottomColor)"
    )
    assert len(set(borders)) == 3
    marks = await page.locator(".legend .mark").all_inner_texts()
    assert len(set(marks)) == 3


_SAMPLES = """() => {
  const pen = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgb = (colour) => {
    pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const ground = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (!colour.endsWith(', 0)') && colour !== 'transparent') return colour;
    }
    return 'white';
  };
  const wanted = ['.legend .tok.draft', '.legend .tok.lookup', '.legend .tok.target',
    '.lede p', '.prompt-box .primary'];
  return wanted.map((name) => {
    const element = document.querySelector(name);
    return [name, rgb(getComputedStyle(element).color), rgb(ground(element))];
  });
}"""


def contrast(one: list[int], other: list[int]) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(colour: list[int]) -> float:
    shares = [value / 255 for value in colour]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest_asyncio.fixture(loop_scope="session")
async def scripted(tmp_path) -> AsyncIterator[Cluster]:
    """A coordinator in this process, whose target says what it should not."""
    async with a_cluster(telemetry={"store_path": str(tmp_path / "spans.sqlite")}) as cluster:
        target = FakeTarget(script=tells_rounds(HOSTILE))
        await cluster.add_target(target, worker_id="<b>t1</b>")
        yield cluster


async def test_text_of_a_model_is_never_markup(open_console: Open, scripted: Cluster):
    page = (await open_console(scripted.address)).page
    await page.fill("#prompt", HOSTILE)
    await page.click("#run")
    assert await generated(page) == HOSTILE
    await page.get_by_label("Round before").click()
    await page.locator("svg.tree").wait_for()
    await page.click("nav >> text=Cluster")
    await expect(page.locator("tbody td").first).to_have_text("<b>t1</b>")
    await asyncio.sleep(0)
    assert await page.evaluate("window.hacked") is None
    assert await page.locator("main img, main script, main b").count() == 0


async def test_a_key_is_asked_for_and_kept_by_the_tab(open_console: Open, tmp_path):
    key = new_key()
    (tmp_path / "secret").write_text("0123456789abcdef" * 2)
    (tmp_path / "keys.toml").write_text(f"[keys]\n{key_line(key, 'acme')}\n")
    door = {
        "keys_file": str(tmp_path / "keys.toml"),
        "tenant_secret_file": str(tmp_path / "secret"),
    }
    async with a_cluster(door=door) as cluster:
        opened = await open_console(cluster.address)
        page, dialog = opened.page, opened.page.locator("#key-dialog")
        await expect(dialog).to_be_visible()
        await expect(dialog).to_contain_text("an API key is needed")
        await page.keyboard.type(key)
        await page.keyboard.press("Enter")
        await expect(page.locator("#key-button")).to_have_text("API key ✓")
        await expect(page.locator("#model-chip")).to_have_text("no model yet")
        await page.reload()
        await expect(page.locator("#key-button")).to_have_text("API key ✓")
        assert key not in await page.evaluate("JSON.stringify(localStorage) + document.cookie")
        opened.allow("401")
