"""τ of the drafter's own loop, for a report: the draft model alone, and lookup beside it."""

from collections.abc import Sequence

from treedraft.draft.assembly import assemble
from treedraft.draft.settings import (
    DraftSettings,
    GrowthSettings,
    LookupSettings,
    RecentTrafficSettings,
)
from treedraft.inference.downloads import Progress
from treedraft.inference.models import LoadedModel
from treedraft.training.evaluation.rehearsal import Rehearsal
from treedraft.training.evaluation.report import RehearsedLength
from treedraft.training.evaluation.settings import EvaluationSettings
from treedraft.training.evaluation.texts import TargetText


def rehearse(
    draft: LoadedModel,
    texts: Sequence[TargetText],
    settings: EvaluationSettings,
    vocab_size: int,
    progress: Progress,
) -> tuple[RehearsedLength, ...]:
    """Return τ of the drafter's own loop, over the first texts of each category.

    Without lookup and beside it. Lookup sees a session's own text alone: each text is
    there once.
    """
    results = []
    for temperature in settings.temperatures if settings.rehearsed_prompts else ():
        progress(f"the drafter's own loop at temperature {temperature:g}")
        own = _first_of_each([t for t in texts if t.temperature == temperature], settings)
        results += [
            _rehearse_one(draft, own, settings, vocab_size, has_lookup=has_lookup)
            for has_lookup in (False, True)
        ]
    return tuple(results)


def _rehearse_one(
    draft: LoadedModel,
    texts: Sequence[TargetText],
    settings: EvaluationSettings,
    vocab_size: int,
    *,
    has_lookup: bool,
) -> RehearsedLength:
    """Return τ of the drafter's own loop over texts of one temperature, all at once."""
    draft_settings = DraftSettings(
        kv_tokens=sum(len(text.token_ids) + 256 for text in texts),
        max_sessions=len(texts),
        growth=GrowthSettings(
            max_rows_per_step=4 * len(texts),
            num_children=settings.num_children,
            max_depth=settings.max_depth,
            min_score=settings.min_score,
            levels=1,  # a step is a level, wherever this runs
            prefill_chunk=sum(len(text.token_ids) for text in texts),
        ),
        lookup=LookupSettings(enabled=has_lookup, recent=RecentTrafficSettings(enabled=False)),
    )
    grower = assemble(draft, draft_settings).grower
    with Rehearsal(draft_settings, grower, vocab_size=vocab_size) as rehearsal:
        outcomes = rehearsal.run(
            texts,
            budget=settings.rehearsed_budget,
            max_depth=settings.max_depth,
            max_steps=settings.rehearsed_steps,
        )
    num_rounds = sum(outcome.num_rounds for outcome in outcomes)
    return RehearsedLength(
        temperature=texts[0].temperature,
        budget=settings.rehearsed_budget,
        max_steps=settings.rehearsed_steps,
        num_texts=len(texts),
        num_rounds=num_rounds,
        num_tokens=sum(outcome.num_tokens for outcome in outcomes),
        steps_per_round=sum(o.num_steps for o in outcomes) / max(1, num_rounds),
        has_lookup=has_lookup,
    )


def _first_of_each(texts: Sequence[TargetText], settings: EvaluationSettings) -> list[TargetText]:
    chosen: dict[str, list[TargetText]] = {}
    for text in texts:
        chosen.setdefault(text.category, []).append(text)
    return [text for group in chosen.values() for text in group[: settings.rehearsed_prompts]]
