"""Signs of life on a stream that has nothing to say for a while.

A peer that is frozen or cut off keeps its connections for minutes, and so does
one that only waits. Whoever reads the stream can tell them apart if the latter
says something now and then.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import TypeVar

Event = TypeVar("Event")


async def with_heartbeats(
    events: AsyncGenerator[Event, None], seconds: float
) -> AsyncGenerator[Event | None, None]:
    """Yield the events, and None whenever there was none for so many seconds.

    Closing it closes the events.
    """
    reading: asyncio.Task[Event] | None = None
    try:
        while True:
            reading = asyncio.ensure_future(_next(events))
            while not (await asyncio.wait({reading}, timeout=seconds))[0]:
                yield None
            try:
                event = reading.result()
            except StopAsyncIteration:
                return
            yield event
    finally:
        if reading is not None and not reading.done():
            reading.cancel()
            await asyncio.wait({reading})
        await events.aclose()


async def _next(events: AsyncGenerator[Event, None]) -> Event:
    return await anext(events)
