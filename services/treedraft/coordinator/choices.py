"""Several answers at once, as one stream of events.

Each answer is read by a task of its own, no further ahead than the reader of
the whole allows. The first that fails ends them all.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from treedraft.core.generation import GenerateEvent

_Item = tuple[int, GenerateEvent | Exception | None]


async def merged(
    answers: Sequence[AsyncGenerator[GenerateEvent, None]],
) -> AsyncGenerator[tuple[int, GenerateEvent], None]:
    """Yield the events of all answers as they come, each with the number of its answer.

    Raises:
        Exception: what an answer raised; the others are closed then.
    """
    if len(answers) == 1:
        async with aclosing(answers[0]) as only:
            async for event in only:
                yield 0, event
        return
    arrived: asyncio.Queue[_Item] = asyncio.Queue(maxsize=len(answers))
    readers = [
        asyncio.create_task(_read(index, answer, arrived)) for index, answer in enumerate(answers)
    ]
    try:
        num_open = len(answers)
        while num_open:
            index, item = await arrived.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                num_open -= 1
            else:
                yield index, item
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


async def _read(
    index: int, answer: AsyncGenerator[GenerateEvent, None], arrived: "asyncio.Queue[_Item]"
) -> None:
    try:
        async with aclosing(answer):
            async for event in answer:
                await arrived.put((index, event))
    except Exception as error:
        await arrived.put((index, error))
    else:
        await arrived.put((index, None))
