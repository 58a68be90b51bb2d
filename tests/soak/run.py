"""A cluster of toy processes under light mixed traffic: `python -m tests.soak.run --minutes 30`.

Clients read to the end or slowly, leave, cancel, break off and resume, and ask for
what is refused. Memory, threads and open files of each process are sampled; at the
end, with nobody asking, all sessions and KV pages must be given back, and after the
warm-up nothing may have grown.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import random
import tempfile
import time
from pathlib import Path

import psutil

from treedraft.core.errors import TreedraftError
from treedraft.core.generation import Delta, GenerateQuery, ResumeQuery, Started, hash_tokens
from treedraft.core.sampling import SamplingParameters, SpeculationOptions, StoppingCriteria
from treedraft.core.worker import WorkerRole
from treedraft.inference.toy import make_toy_model
from treedraft.local_cluster.cluster import LocalCluster
from treedraft.local_cluster.plan import ClusterPlan
from treedraft.rpc.coordinator_client import CoordinatorClient

_SAMPLE_SECONDS = 5.0
_WARM_UP_SHARE = 0.4
_SETTLE_SECONDS = 30.0
# A fit through a few samples is never quite flat.
MAX_SLOPE_MB_PER_MINUTE = 1.0
MAX_MORE_THREADS = 4
MAX_MORE_FILES = 8
_SETTINGS = {
    "TREEDRAFT_COORDINATOR__DISCONNECT_GRACE_SECONDS": "3",
    "TREEDRAFT_TARGET__KV__TOKENS": "8192",
    "TREEDRAFT_DRAFT__LOOKUP__RECENT__MAX_TOKENS": "20000",
    "TREEDRAFT_DRAFT__LOOKUP__RECENT__MAX_TOKENS_PER_TENANT": "20000",
}


class Traffic:
    """Requests of all kinds, a few at a time."""

    def __init__(self, client: CoordinatorClient, rng: random.Random, pause: float) -> None:
        self._client = client
        self._rng = rng
        self._pause = pause
        self.counts: collections.Counter[str] = collections.Counter()

    async def run(self, until: float) -> None:
        """Ask again and again."""
        kinds = (self._read, self._read, self._slowly, self._leave, self._cancel, self._resume)
        while time.monotonic() < until:
            act = self._rng.choice((*kinds, self._refused))
            try:
                await act()
                self.counts[act.__name__.strip("_")] += 1
            except TreedraftError as error:
                self.counts[error.reason] += 1
            await asyncio.sleep(self._rng.uniform(0.0, 2 * self._pause))

    def _query(self) -> GenerateQuery:
        rng = self._rng
        return GenerateQuery(
            token_ids=tuple(rng.randrange(3, 300) for _ in range(rng.randint(1, 60))),
            sampling=SamplingParameters(
                temperature=rng.choice((0.0, 0.7)), seed=rng.getrandbits(63)
            ),
            stopping=StoppingCriteria(max_tokens=rng.randint(1, 40), ignore_eos=True),
            speculation=SpeculationOptions(enabled=rng.random() < 0.8),
        )

    async def _read(self, pause: float = 0.0, leave_after: int | None = None) -> tuple[str, list]:
        session_id, held = "", []
        events = self._client.generate(self._query(), timeout_seconds=60.0)
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, Started):
                    session_id = event.session_id
                elif isinstance(event, Delta):
                    held += event.token_ids
                    await asyncio.sleep(pause)
                if leave_after is not None and len(held) >= leave_after:
                    break
        return session_id, held

    async def _slowly(self) -> None:
        await self._read(pause=0.1)

    async def _leave(self) -> None:
        await self._read(leave_after=self._rng.randint(0, 5))

    async def _cancel(self) -> None:
        session_id, _ = await self._read(leave_after=1)
        await self._client.cancel(session_id)

    async def _resume(self) -> None:
        session_id, held = await self._read(leave_after=2)
        query = ResumeQuery(session_id, len(held), hash_tokens(held) if held else b"")
        async with contextlib.aclosing(self._client.resume(query, timeout_seconds=60.0)) as events:
            async for _ in events:
                pass

    async def _refused(self) -> None:
        query = GenerateQuery(token_ids=(2**31,), stopping=StoppingCriteria(max_tokens=1))
        async with contextlib.aclosing(self._client.generate(query)) as events:
            async for _ in events:
                pass


def sample(cluster: LocalCluster) -> dict[str, dict[str, float]]:
    """Return memory, threads and open files of each process."""
    found = {}
    for name, process in cluster.processes.items():
        one = psutil.Process(process.process_id)
        found[name] = {
            "rss_mb": one.memory_info().rss / 2**20,
            "threads": one.num_threads(),
            "files": one.num_fds(),
            "cpu_seconds": sum(one.cpu_times()[:2]),
        }
    return found


def slope(times: list[float], values: list[float]) -> float:
    """Return the slope of the line of least squares, per unit of `times`."""
    mean_time, mean_value = sum(times) / len(times), sum(values) / len(values)
    spread = sum((one - mean_time) ** 2 for one in times)
    both = zip(times, values, strict=True)
    return sum((t - mean_time) * (v - mean_value) for t, v in both) / spread if spread else 0.0


def judge(samples: list[tuple[float, dict]]) -> tuple[dict, list[str]]:
    """Return what each process did after the warm-up, and what is wrong with it."""
    end = samples[-1][0]
    late = [one for one in samples if one[0] >= _WARM_UP_SHARE * end]
    report, wrong = {}, []
    for name in samples[0][1]:
        times = [at / 60.0 for at, _ in late]
        series = {key: [found[name][key] for _, found in late] for key in late[0][1][name]}
        half = len(late) // 2
        more = {
            key: max(series[key][half:]) - max(series[key][: max(1, half)])
            for key in ("threads", "files")
        }
        rise = slope(times, series["rss_mb"])
        report[name] = {
            "rss_mb": [round(samples[0][1][name]["rss_mb"], 1), round(series["rss_mb"][-1], 1)],
            "rss_mb_per_minute": round(rise, 3),
            "threads": series["threads"][-1],
            "files": series["files"][-1],
            "more_threads": more["threads"],
            "more_files": more["files"],
            "cpu_share": round(samples[-1][1][name]["cpu_seconds"] / end, 3),
        }
        if rise > MAX_SLOPE_MB_PER_MINUTE:
            wrong.append(f"{name} grows by {rise:.2f} MB a minute")
        if more["threads"] > MAX_MORE_THREADS or more["files"] > MAX_MORE_FILES:
            wrong.append(f"{name} has more threads or files: {more}")
    return report, wrong


async def settled(client: CoordinatorClient) -> list[str]:
    """Wait until nothing runs; return what is left over when the time is up."""
    left: list[str] = []
    deadline = time.monotonic() + _SETTLE_SECONDS
    while time.monotonic() < deadline:
        description = await client.describe_cluster()
        left = []
        for registration, report in description.workers:
            name = registration.worker_id
            if report.num_sessions or report.num_waiting:
                left.append(f"{name}: {report.num_sessions} sessions")
            is_target = registration.role is WorkerRole.TARGET
            if is_target and report.free_kv_blocks != report.total_kv_blocks:
                left.append(f"{name}: {report.free_kv_blocks} of {report.total_kv_blocks} pages")
        if not left:
            return []
        await asyncio.sleep(1.0)
    return left


async def soak(minutes: float, *, pause: float, seed: int = 0) -> dict:
    """Run it and return the report; `wrong` is empty if all is well."""
    with tempfile.TemporaryDirectory() as folder:
        toy = str(make_toy_model(Path(folder) / "toy", seed=3))
        plan = ClusterPlan(
            target=toy, draft=toy, target_threads=1, draft_threads=1, settings=_SETTINGS
        )
        async with LocalCluster(plan) as cluster:
            client = cluster.connect()
            traffic = Traffic(client, random.Random(seed), pause)
            began = time.monotonic()
            until = began + minutes * 60.0
            asking = [asyncio.create_task(traffic.run(until)) for _ in range(3)]
            samples = []
            while any(not task.done() for task in asking):
                samples.append((time.monotonic() - began, sample(cluster)))
                await asyncio.wait(asking, timeout=_SAMPLE_SECONDS)
            await asyncio.gather(*asking)
            left = await settled(client)
            await client.close()
    processes, wrong = judge(samples)
    return {
        "minutes": minutes,
        "requests": dict(traffic.counts),
        "processes": processes,
        "left_over": left,
        "wrong": wrong + left,
    }


def main() -> int:
    """Run the soak that the command line asks for; return 1 if something grew or leaked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--pause", type=float, default=1.5, help="mean seconds between requests")
    parser.add_argument("--json", help="write the report here")
    arguments = parser.parse_args()
    report = asyncio.run(soak(arguments.minutes, pause=arguments.pause))
    print(json.dumps(report, indent=1))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=1) + "\n")
    return 1 if report["wrong"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
