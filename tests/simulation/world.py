"""A run: a cluster drawn from a seed, clients, a plan of faults, and what must hold.

Checked after every turn of the event loop: what a target holds of a session is a
beginning of its true text; the books of KV pages agree. Checked by the parts as
they go: what a row of a pass sees (`language`), the store's epochs and logs
(`store`), every piece that a client is shown (`clients`). Checked at the end, when
all faults have healed: every client has its answer; no session, KV page, slot or
credit of any process is left over.
"""

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.actor import Actor
from tests.simulation.clients import Client
from tests.simulation.coordinator_process import CoordinatorProcess
from tests.simulation.drafter_process import DrafterProcess
from tests.simulation.faults import FaultPlan, draw_plan
from tests.simulation.language import EOS, plain_text
from tests.simulation.network import Network, spawn
from tests.simulation.process import Process, Surroundings
from tests.simulation.settings import coordinator_settings, draft_settings, target_settings
from tests.simulation.store import StoreServer
from tests.simulation.target_process import TargetProcess
from tests.simulation.virtual_time import VirtualLoop, virtual_world

from treedraft.coordinator.session_store.embedded import EmbeddedSessionStore
from treedraft.core.generation import GenerateQuery
from treedraft.core.sampling import (
    SamplingParameters,
    SpeculationOptions,
    StoppingCriteria,
    Verification,
)
from treedraft.core.session import FinishReason

# Virtual seconds.
_PATIENCE_SECONDS = 120.0
_QUIET_SECONDS = 20.0
_MAX_VIOLATIONS = 20


@dataclass
class Outcome:
    """What came of a run."""

    seed: int
    violations: list[str] = field(default_factory=list)
    num_sessions: int = 0
    num_tokens: int = 0
    num_faults: int = 0
    num_turns: int = 0
    num_resumed: int = 0
    num_left: int = 0
    digest: int = 0


class World:
    """One run."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.outcome = Outcome(seed)
        self.loop = VirtualLoop()
        self.loop.after_turn = self._check_turn
        network = Network(self.loop, random.Random(seed + 1), self.report)
        store = StoreServer(
            self.loop,
            random.Random(seed + 2),
            lambda: EmbeddedSessionStore(
                session_ttl_seconds=600.0,
                lease_seconds=1.0,
                worker_ttl_seconds=1.5,
                clock=self.loop.time,
            ),
            self.report,
        )
        rng = random.Random(seed + 3)
        self.around = Surroundings(self.loop, rng, network, self.report, store, [])
        self.plan: FaultPlan = draw_plan(self.rng)
        self.processes: dict[str, Process] = {}
        self._makers: dict[str, Any] = {}
        self.clients: list[Client] = []
        self._seen: dict[tuple[str, str], int] = {}

    def report(self, what: str) -> None:
        """Note that something did not hold."""
        if len(self.outcome.violations) < _MAX_VIOLATIONS:
            self.outcome.violations.append(f"at {self.loop.time():.4f} s: {what}")

    def run(self) -> Outcome:
        try:
            with virtual_world(self.loop, self.around.rng):
                asyncio.set_event_loop(self.loop)
                self.loop.run_until_complete(self._play())
        finally:
            with virtual_world(self.loop, self.around.rng):
                self._bury()
        self.outcome.num_turns = self.loop.num_turns
        self.outcome.digest = hash(
            (self.loop.num_turns, self.loop.time(), self.around.store.num_calls)
        )
        return self.outcome

    async def _play(self) -> None:
        self._raise_cluster()
        await asyncio.sleep(0.5)
        tasks = [self._send_client(number) for number in range(self.plan.num_clients)]
        await self._inflict()
        self.around.store.loss = 0.0
        _, waiting = await asyncio.wait(tasks, timeout=_PATIENCE_SECONDS)
        for client in self.clients:
            if not client.is_done:
                self.report(f"{client.actor} ({client.session_id}) has no answer yet")
        for task in waiting:
            task.cancel()
        await asyncio.sleep(_QUIET_SECONDS)
        self._check_end()
        self._sum_up()

    # The cluster.

    def _raise_cluster(self) -> None:
        plan, around, rng = self.plan, self.around, self.rng
        around.coordinators += [f"coordinator-{i}" for i in range(plan.num_coordinators)]
        settings = coordinator_settings(rng)
        for name in around.coordinators:
            self._makers[name] = lambda name=name: CoordinatorProcess(name, around, settings)
        for i in range(plan.num_targets):
            name, chosen = f"target-{i}", target_settings(rng)
            self._makers[name] = lambda name=name, s=chosen: TargetProcess(name, around, s)
        for i in range(plan.num_drafters):
            name, own = f"drafter-{i}", draft_settings(rng)
            moodiness = rng.choice([None, 0, 2, 5])
            self._makers[name] = lambda name=name, s=own, m=moodiness: DrafterProcess(
                name, around, s, m
            )
        for name in self._makers:
            self.start(name)

    def start(self, name: str) -> None:
        """Start a process, or start it anew."""
        self.processes[name] = self._makers[name]()

    def _send_client(self, number: int) -> asyncio.Task[None]:
        rng = self.rng
        query = _draw_query(rng)
        is_exact = query.sampling.verification is Verification.COUPLED
        truth = _truth_of(query) if is_exact else None
        reason = None
        if truth is not None:
            is_stopped = truth[-1] == EOS and not query.stopping.ignore_eos
            reason = FinishReason.STOP if is_stopped else FinishReason.LENGTH
        client = Client(
            Actor(f"client-{number}"),
            query,
            truth,
            reason,
            self.around.network,
            self.around.store,
            random.Random(rng.getrandbits(32)),
            self.around.coordinators,
            self.report,
            leaves_after=rng.randint(0, 8) if rng.random() < 0.15 else None,
            cancels=rng.random() < 0.5,
            break_share=rng.choice([0.0, 0.0, 0.05]),
            reads_slowly=rng.random() < 0.2,
            may_lose=self.plan.empties_store,
        )
        self.clients.append(client)
        return spawn(self.loop, client.actor, self._come(client, rng.uniform(0.0, 1.5)))

    @staticmethod
    async def _come(client: Client, delay: float) -> None:
        await asyncio.sleep(delay)
        await client.run()

    async def _inflict(self) -> None:
        began = self.loop.time()
        for fault in self.plan.faults:
            await asyncio.sleep(max(0.0, began + fault.at - self.loop.time()))
            if fault.strike(self):
                self.outcome.num_faults += 1
        await asyncio.sleep(3.0)

    def _bury(self) -> None:
        for process in self.processes.values():
            process.actor.kill()
        pending = asyncio.all_tasks(self.loop)
        for task in pending:
            task.cancel()
        if pending:
            self.loop.after_turn = lambda: None
            self.loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        self.loop.close()
        self.around.tracing.shutdown()

    # What must hold.

    def _living(self, kind: type) -> list[Any]:
        return [p for p in self.processes.values() if isinstance(p, kind) and p.actor.is_alive]

    def _check_turn(self) -> None:
        for target in self._living(TargetProcess):
            for session_id, (_, session) in target.roster._sessions.items():
                key = (target.incarnation, session_id)
                if self._seen.get(key) != session.num_tokens:
                    self._seen[key] = session.num_tokens
                    truth = self.around.store.truth.get(session_id)
                    if truth and tuple(session.token_ids) != tuple(truth[: session.num_tokens]):
                        self.report(f"{target.name} has another text of {session_id}")
                    try:
                        target.pool.check_integrity()
                    except AssertionError as error:
                        self.report(f"KV pages of {target.name}: {error}")

    def _check_end(self) -> None:
        for target in self._living(TargetProcess):
            self._check_target(target)
        for drafter in self._living(DrafterProcess):
            book = drafter.drafter._book
            self._expect(drafter, "sessions", book.num_sessions, 0)
            self._expect(drafter, "sessions on links", sum(len(x.sessions) for x in book.links), 0)
            self._expect(drafter, "changed and restless", len(book.changed) + len(book.restless), 0)
            self._expect(drafter, "free slots", drafter.pool.num_free, drafter.pool.num_slots)
        for process in self._living(CoordinatorProcess):
            coordinator = process.coordinator
            self._expect(process, "running sessions", len(coordinator._services.running), 0)
            self._expect(process, "requests inside", coordinator._gate.num_running, 0)
            # Those that ended stay at hand for a while, bounded in number.
            parked = len(coordinator._caretaker._tasks)
            self._expect(process, "sessions looked after", parked, 0)
            sinks = sum(link.num_sessions for link in coordinator._links._links.values())
            self._expect(process, "sessions on links", sinks, 0)
            places = coordinator._services.failover._places._value
            limit = coordinator._settings.failover.max_at_once
            self._expect(process, "turns to move", places, limit)

    def _check_target(self, target: TargetProcess) -> None:
        book = target.book
        self._expect(target, "sessions", len(target.roster), 0)
        scheduled = target.scheduler.num_running + target.scheduler.num_waiting
        self._expect(target, "scheduled sessions", scheduled, 0)
        self._expect(target, "free pages", target.pool.num_free, target.pool.num_blocks)
        self._expect(target, "used pages", sum(target.pool._num_users), 0)
        kept = len(book._sessions) + len(book._attachments) + len(book._refusals)
        self._expect(target, "sessions in the draft book", kept, 0)
        self._expect(target, "specs of the servicer", len(target.servicer._specs), 0)
        named = sum(link.num_sessions for link in target.links._links.values())
        self._expect(target, "sessions that name drafters", named, 0)
        for endpoint, link in book._links.items():
            granted = link.credit_nodes + link.outbox.credit_nodes
            wanted = target.settings.drafting.credit_nodes
            self._expect(target, f"credit of {endpoint}", granted, wanted)
            self._expect(target, f"sessions at {endpoint}", len(link.sessions), 0)

    def _expect(self, process: Process, what: str, found: int, expected: int) -> None:
        if found != expected:
            self.report(f"{process.name}: {what}: {found} at the end, not {expected}")

    def _sum_up(self) -> None:
        out = self.outcome
        out.num_sessions = len(self.clients)
        out.num_tokens = sum(len(client.held) for client in self.clients)
        out.num_resumed = sum(client.num_resumed for client in self.clients)
        out.num_left = sum(client.leaves_after is not None for client in self.clients)


def _draw_query(rng: random.Random) -> GenerateQuery:
    is_rejection = rng.random() < 0.1
    temperature = rng.choice([0.0, 0.0, 0.7, 1.0])
    sampling = SamplingParameters(
        temperature=0.8 if is_rejection else temperature,
        top_k=rng.choice([0, 8]) if temperature or is_rejection else 0,
        seed=rng.getrandbits(64),
        verification=Verification.REJECTION if is_rejection else Verification.COUPLED,
    )
    shared = tuple(64 + i % 16 for i in range(rng.choice([0, 8, 8, 13])))
    own = tuple(rng.randrange(64, 80) for _ in range(rng.randint(1, 12)))
    return GenerateQuery(
        token_ids=shared + own,
        sampling=sampling,
        stopping=StoppingCriteria(max_tokens=rng.randint(1, 50), ignore_eos=rng.random() < 0.5),
        speculation=SpeculationOptions(enabled=rng.random() < 0.9),
    )


def _truth_of(query: GenerateQuery) -> tuple[int, ...]:
    assert query.token_ids is not None
    assert query.stopping.max_tokens is not None
    return plain_text(
        query.token_ids,
        query.sampling,
        query.stopping.max_tokens,
        ignore_eos=query.stopping.ignore_eos,
    )
