"""Tuning from beginning to end: predict everything, run the best, say what to use.

Predictions are cheap and leave out what only a real run has: processes, frames,
lookup beside a model, a budget that adapts. So the best few settings of each drafter
are run through processes, and so are the settings that it comes with; what is
recommended was run.
"""

import gc
from collections.abc import Mapping, Sequence

from treedraft.bench.tuning.confirm import cluster_plan, confirm
from treedraft.bench.tuning.plan import TunePlan
from treedraft.bench.tuning.predict import Predictor
from treedraft.bench.tuning.result import (
    Confirmation,
    DrafterFigures,
    Prediction,
    TuneResult,
    settings_of,
)
from treedraft.core.errors import InvalidRequestError, TreedraftError
from treedraft.inference.stamp import take_stamp
from treedraft.local_cluster.cluster import Progress
from treedraft.local_cluster.plan import num_usable_cores, share_threads, takes_turns
from treedraft.training.evaluation.tree_length import TreeShape


async def tune(plan: TunePlan, progress: Progress) -> TuneResult:
    """Try all drafters and shapes of a plan.

    Raises:
        InvalidRequestError: reason NO_DRAFTER, none of them can be used.
        TreedraftError: the target cannot be loaded, or a process dies.
    """
    stamp = take_stamp()
    is_sharing = shares_device(plan)
    num_threads = share_threads(num_usable_cores(), cluster_plan(plan, _any_model(plan), {}))[0]
    predictor = Predictor(plan, num_threads=num_threads, is_sharing=is_sharing, progress=progress)
    figures = [predictor.predict(draft) for draft in plan.drafters]
    if all(entry.error for entry in figures):
        reasons = "; ".join(f"{entry.name}: {entry.error}" for entry in figures)
        raise InvalidRequestError(
            f"no drafter can be used: {reasons}", field="draft", reason="NO_DRAFTER"
        )
    name, cost = predictor.target_name, predictor.cost
    # The processes to come need the memory, and the cores.
    del predictor
    gc.collect()
    confirmations = []
    for entry in figures:
        confirmations += await _confirm_best(plan, entry, is_sharing, progress)
    return TuneResult(
        stamp=stamp,
        target=name,
        temperature=plan.temperature,
        num_prompts=len(plan.prompts),
        num_threads=num_threads,
        is_sharing=is_sharing,
        target_ms=cost.target_ms,
        drafters=tuple(figures),
        confirmations=tuple(confirmations),
        source=plan.target,
        dtype=plan.dtype,
        device=plan.device,
    )


def shares_device(plan: TunePlan) -> bool:
    """Return whether drafting costs the target's time on this machine."""
    if plan.device not in ("", "auto", "cpu"):
        return True
    return takes_turns(num_usable_cores(), cluster_plan(plan, _any_model(plan), {}))


def _any_model(plan: TunePlan) -> str:
    return next((draft for draft in plan.drafters if draft), "")


async def _confirm_best(
    plan: TunePlan, figures: DrafterFigures, is_sharing: bool, progress: Progress
) -> list[Confirmation]:
    """Run the settings that a drafter comes with, and its best shapes."""
    if figures.error or not plan.num_confirmed:
        return []
    candidates: list[tuple[TreeShape | None, Mapping[str, str]]] = [(None, {})]
    for prediction in choose_shapes(figures.predictions, plan.num_confirmed):
        shape = prediction.shape
        own = settings_of(shape, is_sharing=is_sharing, has_model=bool(figures.draft))
        candidates.append((shape, own))
    results = []
    for number, (tried, settings) in enumerate(candidates):
        words = f"{figures.name}, run {number + 1} of {len(candidates)}"

        def tell(text: str, words: str = words) -> None:
            progress(f"{words}: {text}")

        try:
            results.append(await confirm(plan, figures.draft, tried, settings, tell))
        except TreedraftError as error:
            raise type(error)(f"{words}: {error.message}", reason=error.reason) from error
    return results


def choose_shapes(predictions: Sequence[Prediction], number: int) -> list[Prediction]:
    """Return the best prediction of each of the best depths; predictions come fastest first.

    Shapes of one depth differ little, and the budget adapts by itself.
    """
    best: dict[int, Prediction] = {}
    for prediction in predictions:
        best.setdefault(prediction.shape.depth, prediction)
    return list(best.values())[:number]
