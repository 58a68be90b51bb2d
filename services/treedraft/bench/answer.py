"""One answer of a coordinator, gathered from the events of its stream."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from treedraft.core.errors import UnavailableError
from treedraft.core.generation import Delta, Finished, GenerateEvent, GenerateQuery, Started
from treedraft.core.growth import TokenSource


class Asking(Protocol):
    """Whoever can be asked for text: a coordinator, or a client of several."""

    def generate(
        self, query: GenerateQuery, *, timeout_seconds: float | None = None
    ) -> AsyncGenerator[GenerateEvent, None]:
        """Ask for text and yield the events of the answer."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete text, how it began and how it ended."""

    started: Started
    finished: Finished
    token_ids: tuple[int, ...]
    sources: tuple[TokenSource, ...]
    text: str


def _ignore(_delta: Delta) -> None:
    """Show nothing."""


async def ask(
    client: Asking,
    query: GenerateQuery,
    *,
    on_delta: Callable[[Delta], None] = _ignore,
    timeout_seconds: float | None = None,
) -> Answer:
    """Ask for text and return the whole answer.

    Args:
        client: whom to ask.
        query: what to continue.
        on_delta: shown each part as it comes.
        timeout_seconds: time for the whole answer; None sets no limit.

    Raises:
        TreedraftError: as `CoordinatorClient.generate`; UnavailableError with
            reason STREAM_ENDED if the stream ends before the text does.
    """
    started, finished, deltas = None, None, []
    async with aclosing(client.generate(query, timeout_seconds=timeout_seconds)) as events:
        async for event in events:
            match event:
                case Started():
                    started = event
                case Delta():
                    deltas.append(event)
                    on_delta(event)
                case Finished():
                    finished = event
    if started is None or finished is None:
        raise UnavailableError("the stream ended before the text did", reason="STREAM_ENDED")
    return Answer(
        started=started,
        finished=finished,
        token_ids=tuple(token for delta in deltas for token in delta.token_ids),
        sources=tuple(source for delta in deltas for source in delta.sources),
        text="".join(delta.text for delta in deltas),
    )
