"""Puts the parts of a target together around a loaded model."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from treedraft.core.errors import UnsupportedModelError
from treedraft.core.exchange import SharedTokenizer
from treedraft.core.model_description import ModelDescription
from treedraft.core.prefix import short_hash
from treedraft.core.session import SessionSpec
from treedraft.core.worker import WorkerReport
from treedraft.inference.block_pool import BlockPool
from treedraft.inference.description import describe
from treedraft.inference.kv_pool import KVPool
from treedraft.inference.models import LoadedModel
from treedraft.inference.runner import Runner
from treedraft.target.admission import SessionFactory
from treedraft.target.budget import Budget, SurvivalCalibrator
from treedraft.target.drafting import DraftBook
from treedraft.target.engine import Engine
from treedraft.target.events import EngineNews
from treedraft.target.forecast import Forecast
from treedraft.target.gate import DraftGate
from treedraft.target.patience import Patience
from treedraft.target.prompt_line import FirstTokenLimit
from treedraft.target.round_trace import RoundTrace
from treedraft.target.scheduler import Scheduler, SchedulerLimits
from treedraft.target.session_roster import SessionRoster
from treedraft.target.settings import TargetSettings
from treedraft.target.step import PassRunner
from treedraft.target.step_costs import StepCosts
from treedraft.target.warm_up import warm_up
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.tracing import Tracing
from treedraft.text.grammar import GrammarFactory

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TargetParts:
    """What a service needs of an assembled target.

    `prepare` does for a session, on any thread, what would hold up the engine's.
    """

    description: ModelDescription
    engine: Engine
    pool: BlockPool
    prepare: Callable[[SessionSpec], None]


def assemble(
    model: LoadedModel,
    settings: TargetSettings,
    *,
    tracing: Tracing,
    metrics: Metrics,
    publish: Callable[[EngineNews], None],
) -> TargetParts:
    """Build pool, scheduler and engine; the model has run at several sizes when this returns.

    Raises:
        UnsupportedModelError: reason NOT_A_TARGET for a drafter, which has no
            words for most of what its target may say.
    """
    if model.draft_token_ids is not None:
        raise UnsupportedModelError(
            f"{model.name} is a drafter and cannot be served by itself: draft with it for its "
            "target",
            reason="NOT_A_TARGET",
        )
    size = settings.kv.block_size
    pool = BlockPool(settings.kv.tokens // size, size)
    kv = KVPool(
        model.num_layers,
        pool.num_blocks * size,
        model.num_kv_heads,
        model.head_dim,
        dtype=model.dtype,
        device=model.device,
    )
    _log.info("KV pool", tokens=kv.num_slots, most_mb=round(kv.num_bytes / 1e6))
    runner = Runner(model, kv)
    max_session_tokens = min(model.context_length, pool.num_blocks * size)
    description = describe(model, max_prompt_tokens=max_session_tokens - 1, block_size=size)
    costs, calibrator = StepCosts(), SurvivalCalibrator()
    warm_up(runner, costs, max_rows=min(64, kv.num_slots))
    scheduler = Scheduler(
        pool,
        Budget(
            costs,
            calibrator,
            max_step_nodes=settings.budget.max_step_nodes,
            is_fixed=settings.budget.mode == "fixed",
        ),
        SchedulerLimits(
            max_sessions=settings.max_sessions,
            max_waiting=settings.max_waiting,
            prefill_chunk=settings.prefill_chunk,
            max_stall_steps=settings.max_stall_steps,
            max_nodes=settings.budget.max_nodes,
            max_depth=settings.budget.max_depth,
            max_unlogged_tokens=settings.max_unlogged_tokens,
            first_token=FirstTokenLimit(
                settings.first_token.seconds, settings.first_token.prompt_factor
            ),
        ),
        fingerprint=description.fingerprint,
        on_preempted=metrics.session_preempted,
    )
    eos_token_ids = tuple(sorted(description.eos_token_ids))
    book = DraftBook(
        settings.drafting,
        vocab_size=description.vocab_size,
        metrics=metrics,
        verifies_drafts=settings.budget.has_room,
        tokenizer=SharedTokenizer(description.tokenizer_json, eos_token_ids),
        opens_after_prompts=settings.patience.takes_turns,
    )
    factory = SessionFactory(
        description,
        max_session_tokens=max_session_tokens,
        max_live_nodes=settings.drafting.max_live_nodes,
        tracing=tracing,
        grammars=GrammarFactory.make(
            description.tokenizer_json, description.vocab_size, eos_token_ids
        ),
    )
    patience = Patience(
        settings.patience,
        costs,
        calibrator,
        max_nodes=settings.budget.max_nodes,
        max_depth=settings.budget.max_depth,
    )
    engine = Engine(
        roster=SessionRoster(factory, scheduler, book, metrics),
        scheduler=scheduler,
        runner=PassRunner(
            runner=runner,
            kv=kv,
            block_size=size,
            scheduler=scheduler,
            book=book,
            costs=costs,
            calibrator=calibrator,
            trace=RoundTrace(tracing, metrics),
        ),
        book=book,
        patience=patience,
        gate=DraftGate(
            settings.gate,
            costs,
            Forecast(costs, takes_turns=settings.patience.takes_turns),
            travel_ms=patience.shortest_travel_ms,
            has_prompts=lambda: scheduler.has_prompts,
        ),
        metrics=metrics,
        publish=publish,
        report=lambda scheduler: _report(scheduler, pool),
    )
    return TargetParts(description, engine, pool, factory.prepare)


def _report(scheduler: Scheduler, pool: BlockPool) -> WorkerReport:
    return WorkerReport(
        num_sessions=scheduler.num_running,
        num_waiting=scheduler.num_waiting,
        num_pending_pages=scheduler.num_pending_pages,
        free_kv_blocks=pool.num_free,
        total_kv_blocks=pool.num_blocks,
        added_prefixes=tuple(short_hash(page_hash) for page_hash in pool.cached_hashes()),
    )
