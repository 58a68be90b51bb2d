"""A headless Chromium before a real cluster of toy models.

Chromium is the system's own: `chromium` in the path, or what CHROMIUM names.
It resolves no name but this machine's, and each test's page must end without an
error in its console and without a request to anywhere else.
"""

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright
from tests.browser.toy_cluster import toy_cluster

from treedraft.rpc.coordinator_client import CoordinatorClient

_CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests here, and run them on one event loop, that of cluster and browser."""
    for item in items:
        if "tests/browser" in str(item.path):
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests measured."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")


@dataclass
class Served:
    """A cluster that a page can be opened at."""

    address: str
    client: CoordinatorClient


def chromium() -> str:
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        pytest.fail("no Chromium: apt-get install chromium, or name one in CHROMIUM")
    return found


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(
            executable_path=chromium(), args=_CHROMIUM_OPTIONS
        )
        yield launched
        await launched.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def served(tmp_path_factory) -> AsyncIterator[Served]:
    async with toy_cluster(tmp_path_factory.mktemp("toys")) as cluster:
        yield Served(cluster.address, cluster.client)


@dataclass
class Opened:
    """A page of the console, with what it asked for and what it complained of."""

    page: Page
    address: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def allow(self, part: str) -> None:
        """Forget complaints that a test provoked."""
        self.complaints[:] = [text for text in self.complaints if part not in text]


Open = Callable[..., Awaitable[Opened]]


@pytest_asyncio.fixture(loop_scope="session")
async def open_console(browser: Browser, request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    """Give a function that opens the console at an address."""
    opened: list[Opened] = []

    async def open_at(address: str, place: str = "", **options: object) -> Opened:
        chosen = {"viewport": {"width": 1360, "height": 900}, "reduced_motion": "no-preference"}
        context = await browser.new_context(**{**chosen, **options})
        page = await context.new_page()
        one = Opened(page, address)
        opened.append(one)
        page.on("request", lambda sent: one.requests.append(sent.url))
        page.on(
            "console",
            lambda said: one.complaints.append(said.text) if said.type == "error" else None,
        )
        page.on("pageerror", lambda error: one.complaints.append(str(error)))
        await page.goto(f"{address}/console/{place}")
        return one

    yield open_at
    for one in opened:
        await one.page.context.close()
        assert one.complaints == []
        foreign = [url for url in one.requests if not url.startswith((one.address, "data:"))]
        assert foreign == []
