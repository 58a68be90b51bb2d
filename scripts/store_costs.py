"""Measure what the store's operations cost, for the paper figures of docs/scaling.md.

    redis-server --port 6399 --save "" &
    python scripts/store_costs.py --redis redis://127.0.0.1:6399

Each line: an operation, its time inside Redis (`INFO commandstats`) and as awaited by a
coordinator. The Redis must be one that nobody else uses meanwhile; what is written there
has a prefix of its own and a minute to live.
"""

import argparse
import asyncio
import random
import secrets
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

from treedraft.coordinator.placement import MAX_CONTENDERS, TargetCandidate, contenders, place
from treedraft.coordinator.session_store.records import SessionRequest
from treedraft.coordinator.session_store.redis_connection import connect
from treedraft.coordinator.session_store.redis_store import RedisSessionStore
from treedraft.core.sampling import SamplingParameters, StoppingCriteria
from treedraft.core.worker import WorkerRegistration, WorkerReport, WorkerRole

NUM_PAGES = 50
OWNER = "store-costs"


class Measurement:
    """A store, and what happens in its Redis."""

    def __init__(self, url: str) -> None:
        """Use the Redis at `url`."""
        self._redis = connect(url)
        self.store = RedisSessionStore(
            self._redis,
            session_ttl_seconds=60.0,
            lease_seconds=60.0,
            worker_ttl_seconds=60.0,
            prefix=f"costs-{secrets.token_hex(4)}",
        )

    async def of(self, name: str, calls: Sequence[Callable[[], Awaitable[object]]]) -> None:
        """Make the calls one after the other, and print what one of them took."""
        await self._redis.config_resetstat()
        awaited = []
        for call in calls:
            started = time.perf_counter()
            await call()
            awaited.append(time.perf_counter() - started)
        scripts = (await self._redis.info("commandstats"))["cmdstat_evalsha"]
        inside = scripts["usec"] / len(calls)
        print(f"{name:34} {inside:10.1f} us in Redis {1e6 * statistics.median(awaited):10.1f} us")

    async def close(self) -> None:
        """Let the connections go."""
        await self.store.close()


def workers(number: int, rng: random.Random) -> list[tuple[WorkerRegistration, WorkerReport]]:
    """Return targets of one model, each holding 200 pages."""
    return [
        (
            WorkerRegistration(
                f"target-{index}",
                "1",
                WorkerRole.TARGET,
                "10.0.0.1:50051",
                "model",
                fingerprint="f" * 64,
                tokenizer_hash="t" * 64,
                max_sessions=256,
            ),
            WorkerReport(
                num_sessions=rng.randrange(10),
                free_kv_blocks=900,
                total_kv_blocks=1000,
                added_prefixes=tuple(rng.getrandbits(64) for _ in range(200)),
                num_pending_pages=rng.randrange(100),
            ),
        )
        for index in range(number)
    ]


async def measure_workers(found: Measurement, number: int) -> None:
    """Measure reports, lists, and who holds the pages of a prompt."""
    rng, store = random.Random(1), found.store
    known = workers(number, rng)
    for registration, report in known:
        await store.register_worker(registration, report)
    change = WorkerReport(1, added_prefixes=tuple(rng.getrandbits(64) for _ in range(8)))
    await found.of(
        "report of a worker", [lambda one=one: store.report_worker(one, change) for one, _ in known]
    )
    await found.of(f"list of {number} workers", [store.list_workers] * 10)
    pages = [rng.getrandbits(64) for _ in range(NUM_PAGES)]
    asked = [one.worker_id for one, _ in known[:MAX_CONTENDERS]]
    await found.of(
        f"pages held by {len(asked)} targets", [lambda: store.prefix_holders(asked, pages)] * 100
    )
    started = time.perf_counter()
    candidates = [TargetCandidate(one, report, NUM_PAGES) for one, report in known]
    contenders(candidates)
    place(candidates, (), num_drafters=0)
    print(
        f"{f'placement over {number} targets':34} {1e6 * (time.perf_counter() - started):34.1f} us"
    )


async def measure_sessions(found: Measurement, number: int) -> None:
    """Measure the log and the lease."""
    store, prompt = found.store, tuple(range(1, 801))
    names = [f"s{index}" for index in range(number)]
    for name in names:
        request = SessionRequest(
            session_id=name,
            model="model",
            fingerprint="f" * 64,
            prompt_token_ids=prompt,
            sampling=SamplingParameters(seed=1),
            stopping=StoppingCriteria(max_tokens=100),
        )
        await store.create(request, owner=OWNER)
    calls = [
        lambda name=name, base=base: store.append_tokens(name, 1, base, (1, 2, 3), owner=OWNER)
        for base in range(len(prompt), len(prompt) + 30, 3)
        for name in names
    ]
    await found.of("append of 3 tokens to a log", calls)
    await found.of(
        "renewal of a lease",
        [lambda name=name: store.renew(name, 1, owner=OWNER) for name in names],
    )


async def main() -> None:
    """Measure all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--redis", required=True, help="redis://host:port of a Redis to try it on")
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--sessions", type=int, default=200)
    arguments = parser.parse_args()
    found = Measurement(arguments.redis)
    try:
        await measure_workers(found, arguments.workers)
        await measure_sessions(found, arguments.sessions)
    finally:
        await found.close()


if __name__ == "__main__":
    asyncio.run(main())
