"""Puts the parts of a draft model together: weights, KV, runner, grower.

The only module of the service that a drafter without a model never imports, so
that one starts without torch.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog
import torch

from treedraft.draft.breadth import Breadth
from treedraft.draft.level_warm_up import warm_up_levels
from treedraft.draft.model_children import DraftLimits
from treedraft.draft.model_grower import ModelGrower
from treedraft.draft.model_levels import LevelSteps
from treedraft.draft.settings import DraftSettings, GrowthSettings
from treedraft.inference.block_pool import SlotPool
from treedraft.inference.drafting_model import load_drafting_model
from treedraft.inference.fused.graphs import PASSES_UNTIL_RECORDED
from treedraft.inference.fused.support import is_available
from treedraft.inference.kv_pool import KVPool
from treedraft.inference.level_growth import LevelGrower
from treedraft.inference.models import LoadedModel
from treedraft.inference.native.decoder import NativeDecoder
from treedraft.inference.native.growth import NativeLevelGrower
from treedraft.inference.runner import Runner
from treedraft.inference.segment import blank_segment

_SWEEPS = 4

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DraftModel:
    """A draft model that is ready, and what others need to know of it."""

    grower: ModelGrower
    name: str
    fingerprint: str
    tokenizer_hash: str
    vocab_size: int
    growth: GrowthSettings


def load_draft_model(settings: DraftSettings) -> DraftModel:
    """Load the model of the settings and run it once at each size.

    Raises:
        TreedraftError: the weights cannot be had or the model cannot be used.
    """
    if settings.num_threads:
        torch.set_num_threads(settings.num_threads)
    model = load_drafting_model(
        settings.model,
        name=settings.model_name,
        dtype=settings.dtype,
        device=settings.device,
        weights=settings.weights,
        progress=lambda text: _log.info(text),
    )
    if isinstance(model.native, NativeDecoder) and not settings.growth.shares_device:
        wide = settings.model_copy(update={"growth": settings.growth.on_own_cores()})
        return assemble(model, wide, narrow=settings.growth)
    return assemble(model, settings)


def assemble(
    model: LoadedModel, settings: DraftSettings, *, narrow: GrowthSettings | None = None
) -> DraftModel:
    """Build KV pool, runner and grower around a loaded model, and warm it up.

    Where it is given, steps may be as `narrow` as that.
    """
    kv = KVPool(
        model.num_layers,
        settings.kv_tokens,
        model.num_kv_heads,
        model.head_dim,
        dtype=model.dtype,
        device=model.device,
    )
    runner = Runner(model, kv)
    step_ms = _warm_up(
        runner,
        max_rows=min(settings.growth.max_rows_per_step, kv.num_slots),
        # A chunk and a row that gives logits.
        prompt_rows=min(1 + settings.growth.prefill_chunk, kv.num_slots),
    )
    embeddings = model.module.get_input_embeddings()
    assert isinstance(embeddings, torch.nn.Embedding)
    reduced = model.draft_token_ids
    limits = DraftLimits(
        vocab_size=model.vocab_size if reduced is None else embeddings.num_embeddings,
        num_embeddings=embeddings.num_embeddings,
        context_length=model.context_length,
        eos_token_ids=frozenset(model.eos_token_ids),
        column_ids=None if reduced is None else np.array(reduced, dtype=np.int64),
    )
    pool = SlotPool(settings.kv_tokens)
    levels, pass_ms = _level_steps(model, kv, pool, limits, settings.growth)
    breadth = Breadth(narrow or settings.growth, settings.growth)
    grower = ModelGrower(runner, pool, limits, settings.growth, levels, breadth)
    grower.calibrate(step_ms | pass_ms)
    return DraftModel(
        grower,
        model.name,
        model.fingerprint,
        model.tokenizer_hash,
        limits.vocab_size,
        settings.growth,
    )


def _level_steps(
    model: LoadedModel,
    kv: KVPool,
    pool: SlotPool,
    limits: DraftLimits,
    settings: GrowthSettings,
) -> tuple[LevelSteps | None, dict[int, float]]:
    """Return what grows several levels at once, if the model's passes can, and what these take."""
    pass_ms: dict[int, float] = {}
    if settings.levels == 1:
        return None, pass_ms
    how: dict[str, Any] = {
        "column_ids": limits.column_ids,
        "barren": sorted(limits.eos_token_ids),
        "score_temperature": settings.score_temperature,
    }
    grower: LevelGrower | None = None
    if isinstance(model.native, NativeDecoder):
        grower = NativeLevelGrower(model.native, kv, **how)
    elif is_available(model.device, model.dtype):
        grower = _fused_level_grower(model.native, kv, how)
        if grower:
            sessions = range(1, grower.max_sessions + 1)
            pass_ms = warm_up_levels(grower, pool, limits, settings, num_sessions=sessions)
    return LevelSteps(grower, pool, limits, settings) if grower else None, pass_ms


def _fused_level_grower(decoder: object, kv: KVPool, how: dict[str, Any]) -> LevelGrower | None:
    from treedraft.inference.fused.decoder import FusedDecoder  # these need Triton
    from treedraft.inference.fused.levels import LevelGrower as FusedLevelGrower

    return FusedLevelGrower(decoder, kv, **how) if isinstance(decoder, FusedDecoder) else None


def _warm_up(runner: Runner, *, max_rows: int, prompt_rows: int) -> dict[int, float]:
    """Run passes of 1, 2, 4, … rows several times; return the shortest of each in milliseconds.

    They write to slots that hold nothing yet. Where sizes are compiled for, that of a prompt's
    chunk is run as well, once: its tiles are larger, and the first session would wait for them.
    """
    if runner.sizes:
        runner.forward([blank_segment(np.arange(prompt_rows, dtype=np.int64), 1)])
    sizes = [2**exponent for exponent in range(max_rows.bit_length())]
    for size in [size for size in runner.sizes if size <= max_rows] * PASSES_UNTIL_RECORDED:
        _time_pass(runner, size)
    # Sweep after sweep: what else the machine does for a moment, such as loading a
    # target, must not fall on all passes of one size.
    sweeps = [[_time_pass(runner, size) for size in sizes] for _ in range(_SWEEPS)]
    return {size: min(times) for size, times in zip(sizes, zip(*sweeps, strict=True), strict=True)}


def _time_pass(runner: Runner, num_rows: int) -> float:
    segment = blank_segment(np.arange(num_rows, dtype=np.int64), num_rows)
    started = time.perf_counter()
    runner.forward([segment]).cpu()
    return (time.perf_counter() - started) * 1e3
