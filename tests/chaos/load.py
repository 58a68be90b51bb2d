"""Sessions that stream while things break, each compared with the undisturbed answer."""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from treedraft.client import Client, RetryPolicy
from treedraft.core.errors import TreedraftError
from treedraft.core.generation import Delta, Finished, GenerateQuery
from treedraft.core.sampling import SamplingParameters, StoppingCriteria

LAWS = (
    {"temperature": 0.0},
    {"temperature": 0.7, "top_k": 40},
    {"temperature": 1.0, "top_p": 0.9, "repetition_penalty": 1.2},
    {"temperature": 1.0},
)
# A gap in an answer that is worth being explained.
_NOTABLE_SECONDS = 0.2
_TIMEOUT_SECONDS = 120.0
POLICY = RetryPolicy(silence_seconds=2.0, longest_pause_seconds=0.5, lost_seconds=20.0)


def make_queries(count: int, *, seed: int, shortest: int = 32, longest: int = 96):
    """Return queries of all laws and many lengths."""
    rng = random.Random(seed)
    return tuple(
        GenerateQuery(
            text=f"Tale number {number}: " + " ".join(rng.choices(_WORDS, k=rng.randint(4, 40))),
            sampling=SamplingParameters(seed=rng.getrandbits(64), **LAWS[number % len(LAWS)]),
            stopping=StoppingCriteria(
                max_tokens=rng.randint(shortest, longest),
                ignore_eos=True,
                stop_strings=("a text that no toy will ever say",),
            ),
        )
        for number in range(count)
    )


_TALE = "the quick brown fox jumps over a lazy dog while rain falls on old stone walls"
_WORDS = _TALE.split()


@dataclass(frozen=True, slots=True)
class Text:
    """What an answer came to."""

    token_ids: tuple[int, ...]
    text: str
    reason: str


@dataclass(frozen=True, slots=True)
class Stall:
    """A time in which an answer stood still, on the clock of the run."""

    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(slots=True)
class Outcome:
    """What became of all sessions."""

    num_sessions: int = 0
    num_tokens: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    stalls: list[Stall] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)


async def read(client: Client, query: GenerateQuery, stalls: list[Stall] | None = None) -> Text:
    """Return the answer to a query; note where it stood still."""
    token_ids: list[int] = []
    text, reason, last = "", "", time.monotonic()
    events = client.generate(query, timeout_seconds=_TIMEOUT_SECONDS)
    async with aclosing(events):
        async for event in events:
            now = time.monotonic()
            if stalls is not None and now - last >= _NOTABLE_SECONDS:
                stalls.append(Stall(last, now))
            last = now
            if isinstance(event, Delta):
                token_ids.extend(event.token_ids)
                text += event.text
            elif isinstance(event, Finished):
                reason = event.reason.value
    return Text(tuple(token_ids), text, reason)


def judge(found: Text, wanted: Text) -> str:
    """Return what is wrong with an answer in one word, "right" if nothing is."""
    if found == wanted:
        return "right"
    found_ids, wanted_ids = found.token_ids, wanted.token_ids
    if len(found_ids) > len(wanted_ids):
        return "duplicated"
    if found_ids == wanted_ids[: len(found_ids)] and len(found_ids) < len(wanted_ids):
        return "lost"
    return "changed"


class Load:
    """So many sessions at once, for as long as it is told to go on."""

    def __init__(self, endpoints: Sequence[str], queries: Sequence[GenerateQuery]) -> None:
        self._queries = queries
        self._clients = [
            Client(endpoints, policy=POLICY, rng=random.Random(number)) for number in range(4)
        ]
        self.wanted: dict[int, Text] = {}
        self.outcome = Outcome()

    async def learn(self, at_once: int) -> None:
        """Ask everything once, undisturbed."""
        numbers = iter(range(len(self._queries)))

        async def work() -> None:
            for number in numbers:
                self.wanted[number] = await read(self._clients[0], self._queries[number])

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(work())

    async def run(self, at_once: int, is_over: asyncio.Event, *, seed: int) -> None:
        """Keep so many sessions streaming until it is over, then let them end."""
        counter = itertools.count()
        rng = random.Random(seed)

        async def work(delay: float) -> None:
            await asyncio.sleep(delay)
            while not is_over.is_set():
                client = self._clients[next(counter) % len(self._clients)]
                await self._one(client, rng.randrange(len(self._queries)))

        async with asyncio.TaskGroup() as group:
            for number in range(at_once):
                group.create_task(work(number * 0.02))

    async def _one(self, client: Client, number: int) -> None:
        outcome = self.outcome
        try:
            found = await read(client, self._queries[number], outcome.stalls)
            verdict = judge(found, self.wanted[number])
            if verdict != "right" and len(outcome.examples) < 20:
                outcome.examples.append(
                    f"{verdict}: query {number} ({found.reason}) "
                    f"{list(found.token_ids)} for {list(self.wanted[number].token_ids)}"
                )
            outcome.num_tokens += len(found.token_ids)
        except TreedraftError as error:
            verdict = "lost"
            if len(outcome.examples) < 20:
                outcome.examples.append(f"lost: {error.reason}: {error.message}")
        outcome.num_sessions += 1
        outcome.verdicts[verdict] += 1

    async def close(self) -> None:
        for client in self._clients:
            await client.close()
