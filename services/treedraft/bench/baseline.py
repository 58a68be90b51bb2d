"""The parent's side of the process that runs transformers' `generate`."""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from treedraft.core.errors import UnavailableError
from treedraft.core.generation import ChatMessage
from treedraft.local_cluster.plan import thread_environment

_LINE_BYTES = 1 << 24


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
        self._arguments = (str(folder), dtype, device, str(num_threads))
        self._num_threads = num_threads
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        """Start the process and wait until its model is loaded."""
        # As the engine's: a comparison of thread policies is not what is wanted.
        environment = thread_environment(self._num_threads)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "treedraft.bench.transformers_worker",
            *self._arguments,
            env={**environment, **os.environ, "TRANSFORMERS_VERBOSITY": "error"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=_LINE_BYTES,
        )
        try:
            await self._read_line()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        await self._stop()

    async def generate(
        self, conversations: Sequence[Sequence[ChatMessage]], num_tokens: int
    ) -> BaselineResult:
        """Continue all conversations in one batch, greedily, by that many tokens."""
        request = {
            "conversations": [
                [[message.role, message.content] for message in messages]
                for messages in conversations
            ],
            "num_tokens": num_tokens,
        }
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        await self._process.stdin.drain()
        answer = json.loads(await self._read_line())
        return BaselineResult(
            seconds=answer["seconds"],
            prompt_token_ids=tuple(map(tuple, answer["prompt_token_ids"])),
            token_ids=tuple(map(tuple, answer["token_ids"])),
        )

    async def _read_line(self) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            status = await self._process.wait()
            raise UnavailableError(
                f"the process with transformers ended with status {status}", reason="SERVICE_DIED"
            )
        return line

    async def _stop(self) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()
