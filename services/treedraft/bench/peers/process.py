"""The parent's side of a peer's process.

The process runs under whatever Python has the engine. It is shown our package
and nothing else of our environment, through a folder that holds one link.
"""

import json
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

import treedraft
from treedraft.bench.peers.protocol import PeerSetup
from treedraft.bench.peers.result import Reply
from treedraft.bench.worker_process import WorkerProcess

_PACKAGE = Path(treedraft.__file__).resolve().parent


class PeerProcess:
    """One engine with one model; an async context manager."""

    def __init__(self, python: str, setup: PeerSetup, *, limit_seconds: float = 120.0) -> None:
        """Remember what to start; `limit_seconds` bounds loading and every answer."""
        self._python = python
        self._setup = setup
        self._limit = limit_seconds
        self._held = AsyncExitStack()
        self._process: WorkerProcess | None = None
        self.packages: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        """Start the process and wait until its model is loaded.

        Raises:
            UnavailableError: reason PEER_FAILED, with what the engine said.
        """
        async with AsyncExitStack() as stack:
            view = stack.enter_context(tempfile.TemporaryDirectory(prefix="treedraft-peer-"))
            (Path(view) / "treedraft").symlink_to(_PACKAGE)
            self._process = await stack.enter_async_context(self._worker(view))
            self.packages = self._process.greeting["packages"]
            self._held = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        await self._held.aclose()

    async def generate(self, mode: str, prompt_ids: Sequence[int], num_tokens: int) -> Reply:
        """Continue a prompt greedily by that many tokens.

        Raises:
            UnavailableError: reason PEER_FAILED.
        """
        assert self._process is not None
        answer = await self._process.ask(
            {"mode": mode, "prompt_ids": list(prompt_ids), "num_tokens": num_tokens}
        )
        ids = tuple(answer["token_ids"])
        if len(ids) != num_tokens:
            raise self._process.failure(
                f"it gave {len(ids)} tokens where {num_tokens} were asked for"
            )
        return Reply(answer["seconds"], ids, answer["num_passes"])

    def _worker(self, view: str) -> WorkerProcess:
        worker = (self._python, "-m", "treedraft.bench.peers.worker")
        return WorkerProcess(
            (*worker, json.dumps(asdict(self._setup))),
            num_threads=self._setup.num_threads,
            environment={"PYTHONPATH": view},
            folder=view,
            limit_seconds=self._limit,
            reason="PEER_FAILED",
        )
