"""The parent's side of a peer's process.

The process runs under whatever Python has the engine. It is shown our package
and nothing else of our environment, through a folder that holds one link.
"""

import asyncio
import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import treedraft
from treedraft.bench.peers.protocol import PeerSetup
from treedraft.bench.peers.result import Reply
from treedraft.core.errors import UnavailableError
from treedraft.local_cluster.plan import thread_environment

_LINE_BYTES = 1 << 24
_PACKAGE = Path(treedraft.__file__).resolve().parent


class PeerProcess:
    """One engine with one model; an async context manager."""

    def __init__(self, python: str, setup: PeerSetup, *, limit_seconds: float = 120.0) -> None:
        """Remember what to start; `limit_seconds` bounds loading and every answer."""
        self._python = python
        self._setup = setup
        self._limit = limit_seconds
        self._view: tempfile.TemporaryDirectory[str] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self.packages: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        """Start the process and wait until its model is loaded.

        Raises:
            UnavailableError: reason PEER_FAILED, with what the engine said.
        """
        self._view = tempfile.TemporaryDirectory(prefix="treedraft-peer-")
        (Path(self._view.name) / "treedraft").symlink_to(_PACKAGE)
        try:
            self._process = await self._start(self._view.name)
            self.packages = (await self._read())["packages"]
        except OSError as error:
            await self._stop()
            raise _failed(f"{self._python} cannot be run: {error.strerror}") from error
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

    async def generate(self, mode: str, prompt_ids: Sequence[int], num_tokens: int) -> Reply:
        """Continue a prompt greedily by that many tokens.

        Raises:
            UnavailableError: reason PEER_FAILED.
        """
        request = {"mode": mode, "prompt_ids": list(prompt_ids), "num_tokens": num_tokens}
        process = self._process
        if process is None or process.returncode is not None:
            raise _failed("its process has ended")
        assert process.stdin is not None
        process.stdin.write(json.dumps(request).encode() + b"\n")
        with suppress(ConnectionError):  # then there is no answer either
            await process.stdin.drain()
        answer = await self._read()
        ids = tuple(answer["token_ids"])
        if len(ids) != num_tokens:
            raise _failed(f"it gave {len(ids)} tokens where {num_tokens} were asked for")
        return Reply(answer["seconds"], ids, answer["num_passes"])

    async def _start(self, view: str) -> asyncio.subprocess.Process:
        environment = thread_environment(self._setup.num_threads)
        return await asyncio.create_subprocess_exec(
            self._python,
            "-m",
            "treedraft.bench.peers.worker",
            json.dumps(asdict(self._setup)),
            env={**environment, **os.environ, "PYTHONPATH": view},
            cwd=view,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=_LINE_BYTES,
        )

    async def _read(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(self._limit):
                line = await self._process.stdout.readline()
        except TimeoutError:
            await self._stop()
            raise _failed(f"no answer within {self._limit:g} s") from None
        if not line:
            raise _failed(f"its process ended with status {await self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise _failed(answer["error"])
        return answer

    async def _stop(self) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()
        if self._view is not None:
            self._view.cleanup()
            self._view = None


def _failed(why: str) -> UnavailableError:
    return UnavailableError(why, reason="PEER_FAILED")
