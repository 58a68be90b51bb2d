"""A process of ours that answers one request after another, a line of JSON each.

Engines run in processes of their own, so that none of them shares memory, threads
or versions with another. What such a process tells first says that it is ready.
"""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from treedraft.core.errors import UnavailableError
from treedraft.local_cluster.plan import thread_environment

_LINE_BYTES = 1 << 24
WORKER_FAILED = "WORKER_FAILED"


class WorkerProcess:
    """The parent's side of such a process; an async context manager."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        num_threads: int,
        environment: Mapping[str, str] | None = None,
        folder: str | None = None,
        limit_seconds: float | None = None,
        reason: str = WORKER_FAILED,
    ) -> None:
        """Remember what to start.

        Args:
            command: program and arguments.
            num_threads: that its models compute with, waiting as ours do: a
                comparison of thread policies is not what is wanted.
            environment: variables of its own.
            folder: where it runs; None: here.
            limit_seconds: bounds getting ready and every answer; None sets no limit.
            reason: of its errors.
        """
        self._command = tuple(command)
        self._environment = {
            **thread_environment(num_threads),
            **os.environ,
            **(environment or {}),
        }
        self._folder = folder
        self._limit = limit_seconds
        self._reason = reason
        self._process: asyncio.subprocess.Process | None = None
        self.greeting: Any = None

    async def __aenter__(self) -> Self:
        """Start the process and wait until it is ready.

        Raises:
            UnavailableError: with its reason.
        """
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                cwd=self._folder,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=_LINE_BYTES,
            )
        except OSError as error:
            raise self.failure(f"{self._command[0]} cannot be run: {error.strerror}") from error
        try:
            self.greeting = await self._read()
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

    async def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and return its answer.

        Raises:
            UnavailableError: with its reason; the process says why, has ended or is silent.
        """
        process = self._process
        if process is None or process.returncode is not None:
            raise self.failure("its process has ended")
        assert process.stdin is not None
        process.stdin.write(json.dumps(request).encode() + b"\n")
        with suppress(ConnectionError):  # then there is no answer either
            await process.stdin.drain()
        return await self._read()

    def failure(self, why: str) -> UnavailableError:
        """Return an error with the reason of this process."""
        return UnavailableError(why, reason=self._reason)

    async def _read(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(self._limit):
                line = await self._process.stdout.readline()
        except TimeoutError:
            await self._stop()
            raise self.failure(f"no answer within {self._limit:g} s") from None
        if not line:
            raise self.failure(f"its process ended with status {await self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise self.failure(answer["error"])
        return answer

    async def _stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
