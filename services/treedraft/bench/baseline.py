"""The parent's side of the process that runs transformers' `generate`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from treedraft.bench.worker_process import WorkerProcess
from treedraft.core.generation import ChatMessage


@dataclass(frozen=True, slots=True)
class BaselineResult:
    """What one call of `generate` took and gave."""

    seconds: float
    prompt_token_ids: tuple[tuple[int, ...], ...]
    token_ids: tuple[tuple[int, ...], ...]


class TransformersBaseline:
    """A process with transformers' model; an async context manager."""

    def __init__(self, folder: Path, *, dtype: str, device: str, num_threads: int) -> None:
        """Remember what to load: a folder, a dtype, a device (empty: what there is)."""
        worker = (sys.executable, "-m", "treedraft.bench.transformers_worker")
        self._process = WorkerProcess(
            (*worker, str(folder), dtype, device, str(num_threads)),
            num_threads=num_threads,
            environment={"TRANSFORMERS_VERBOSITY": "error"},
            reason="SERVICE_DIED",
        )

    async def __aenter__(self) -> Self:
        """Start the process and wait until its model is loaded.

        Raises:
            UnavailableError: reason SERVICE_DIED.
        """
        await self._process.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        await self._process.__aexit__(kind, error, trace)

    async def generate(
        self, conversations: Sequence[Sequence[ChatMessage]], num_tokens: int
    ) -> BaselineResult:
        """Continue all conversations in one batch, greedily, by that many tokens.

        Raises:
            UnavailableError: reason SERVICE_DIED.
        """
        answer = await self._process.ask(
            {
                "conversations": [
                    [[message.role, message.content] for message in messages]
                    for messages in conversations
                ],
                "num_tokens": num_tokens,
            }
        )
        return BaselineResult(
            seconds=answer["seconds"],
            prompt_token_ids=tuple(map(tuple, answer["prompt_token_ids"])),
            token_ids=tuple(map(tuple, answer["token_ids"])),
        )
