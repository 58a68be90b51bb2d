"""What the coordinators know of the cluster, put together.

Each coordinator is asked at each of its addresses. With a common store all of
them know all workers, and without one each knows its own, so workers are united
by id; requests that wait or found no target are each coordinator's own, so they
are added up. One that does not answer is left out; if none does, nothing is seen.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from treedraft.autoscaler.signals import Worker
from treedraft.core.errors import TreedraftError
from treedraft.core.worker import ClusterDescription


class ClusterClient(Protocol):
    """The part of a coordinator's client that is needed here."""

    async def describe_cluster(self, *, timeout_seconds: float = 10.0) -> ClusterDescription:
        """Return what the coordinator knows."""
        ...

    async def close(self) -> None:
        """Let the connection go."""
        ...


@dataclass(frozen=True, slots=True)
class ClusterView:
    """All workers, and by model the requests since the last view that found no target."""

    workers: tuple[Worker, ...] = ()
    unserved: Mapping[str, int] = field(default_factory=dict)


async def resolve(endpoint: str) -> list[str]:
    """Return `host:port` for every address that a name stands for; none if it stands for none."""
    host, _, port = endpoint.rpartition(":")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM
        )
    except OSError:
        return []
    addresses = sorted({str(entry[4][0]) for entry in found})
    return [f"[{one}]:{port}" if ":" in one else f"{one}:{port}" for one in addresses]


class ClusterObserver:
    """Asks the coordinators."""

    def __init__(
        self,
        coordinators: Sequence[str],
        dial: Callable[[str], ClusterClient],
        *,
        timeout_seconds: float = 3.0,
    ) -> None:
        """Prepare to ask; `dial` makes a client for a `host:port`."""
        self._coordinators = tuple(coordinators)
        self._dial = dial
        self._timeout_seconds = timeout_seconds
        self._clients: dict[str, ClusterClient] = {}
        self._unserved: dict[str, Counter[str]] = {}
        self._log = structlog.get_logger(__name__)

    async def observe(self) -> ClusterView | None:
        """Return what the coordinators know; None if none of them answered."""
        addresses = await self._addresses()
        await self._retain(addresses)
        answers = await asyncio.gather(*map(self._ask, addresses))
        known = {
            address: answer
            for address, answer in zip(addresses, answers, strict=True)
            if answer is not None
        }
        if not known:
            return None
        workers = {
            registration.worker_id: (registration, report)
            for answer in known.values()
            for registration, report in answer.workers
        }
        return ClusterView(
            workers=tuple(workers[worker_id] for worker_id in sorted(workers)),
            unserved=self._count_unserved(known),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._retain(())

    async def _addresses(self) -> list[str]:
        found = await asyncio.gather(*map(resolve, self._coordinators))
        return sorted({address for addresses in found for address in addresses})

    async def _ask(self, address: str) -> ClusterDescription | None:
        client = self._clients.get(address) or self._dial(address)
        self._clients[address] = client
        try:
            return await client.describe_cluster(timeout_seconds=self._timeout_seconds)
        except TreedraftError as error:
            self._log.warning("a coordinator does not answer", address=address, why=error.message)
            return None

    async def _retain(self, addresses: Sequence[str]) -> None:
        for address in set(self._clients) - set(addresses):
            await self._clients.pop(address).close()
            self._unserved.pop(address, None)

    def _count_unserved(self, known: Mapping[str, ClusterDescription]) -> Mapping[str, int]:
        total: Counter[str] = Counter()
        for address, answer in known.items():
            now = Counter(dict(answer.num_unserved))
            before = self._unserved.get(address)
            self._unserved[address] = now
            # At the first look the past does not count; less than before is a restart.
            if before is not None:
                fresh = now - before if all(now[name] >= before[name] for name in before) else now
                total += fresh
        return dict(total)
