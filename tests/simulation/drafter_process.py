"""A drafter: the real servicer, session book and grower, or lookup alone."""

from tests.simulation.language import VOCAB_SIZE, SlotMemory, ToyRunner, describe
from tests.simulation.network import Method
from tests.simulation.process import DRAFT_PASS, Process, Surroundings

from treedraft.core.exchange import Hello
from treedraft.core.worker import WorkerRegistration, WorkerRole
from treedraft.draft.drafter import Drafter
from treedraft.draft.model_grower import DraftLimits, ModelGrower
from treedraft.draft.service import DraftServicer
from treedraft.draft.settings import DraftSettings
from treedraft.inference.block_pool import SlotPool
from treedraft.v1 import draft_service_pb2 as draft_pb


class DrafterProcess(Process):
    """A drafter, with a model of some moodiness or with lookup alone."""

    pass_seconds = DRAFT_PASS

    def __init__(
        self, name: str, around: Surroundings, settings: DraftSettings, moodiness: int | None
    ) -> None:
        super().__init__(name, around)
        self.pool = SlotPool(settings.kv_tokens)
        grower = None if moodiness is None else self._grower(settings, moodiness)
        self.drafter = Drafter(
            settings,
            grower,
            tracing=around.tracing,
            metrics=around.metrics_of("draft"),
            clock_ns=lambda: int(around.loop.time() * 1e9),
        )
        servicer = DraftServicer()
        description = describe()
        servicer.attach(
            Hello(name, self.incarnation, description.tokenizer_hash, VOCAB_SIZE, "toy-draft"),
            self.drafter,
        )
        exchange = Method(
            draft_pb.ExchangeTreesRequest,
            draft_pb.ExchangeTreesResponse,
            servicer.ExchangeTrees,
            is_request_stream=True,
        )
        around.network.serve(name, self.actor, {"ExchangeTrees": exchange})
        self.run_thread(self.drafter, self.drafter._run).start()
        self.drafter._on_end = self._ended
        registration = WorkerRegistration(
            name,
            self.incarnation,
            WorkerRole.DRAFT,
            name,
            description.model,
            tokenizer_hash=description.tokenizer_hash,
            max_sessions=settings.max_sessions,
        )
        self.announce(registration, lambda: self.drafter.report)

    def _ended(self) -> None:
        if self.actor.is_alive:
            self.around.on_bug(f"the drafter {self.name} broke down")

    def _grower(self, settings: DraftSettings, moodiness: int) -> ModelGrower:
        runner = ToyRunner(
            SlotMemory(settings.kv_tokens),
            spend=self.spend,
            on_bug=self.around.on_bug,
            moodiness=moodiness,
        )
        limits = DraftLimits(VOCAB_SIZE, VOCAB_SIZE, describe().context_length, frozenset({256}))
        return ModelGrower(runner, self.pool, limits, settings.growth)
