"""Predicts the speed of every shape of tree with every drafter, without running it.

Texts are the target's own, written once. What a draft model guesses along them
and beside them is replayed for all shapes together (`training.evaluation`), what
lookup guesses by its own loop; the times of passes are measured here and now.
"""

from collections.abc import Iterable, Sequence

import torch

from treedraft.bench.tuning.plan import TunePlan
from treedraft.bench.tuning.result import DrafterFigures, Prediction
from treedraft.core.errors import IncompatiblePeerError, TreedraftError
from treedraft.draft.settings import (
    DraftSettings,
    GrowthSettings,
    LookupSettings,
    RecentTrafficSettings,
)
from treedraft.inference.downloads import Progress
from treedraft.inference.drafting_model import load_drafting_model
from treedraft.inference.models import LoadedModel, load_model
from treedraft.training.evaluation.agreement import measure_agreement
from treedraft.training.evaluation.cost import Cost, measure_cost, predict_speed
from treedraft.training.evaluation.evaluate import num_parameters, replay
from treedraft.training.evaluation.rehearsal import Rehearsal
from treedraft.training.evaluation.settings import EvaluationSettings
from treedraft.training.evaluation.texts import TargetText, target_texts
from treedraft.training.evaluation.tree_length import TreeShape, summarise

LOOKUP_NAME = "lookup"
# A lookup drafter has nothing more to say after so many steps.
_LOOKUP_STEPS = 4


class Predictor:
    """The target's texts and times, and what drafters make of them."""

    def __init__(
        self, plan: TunePlan, *, num_threads: int, is_sharing: bool, progress: Progress
    ) -> None:
        """Load the target and let it write its texts.

        Args:
            plan: what to try.
            num_threads: that target and drafter will have.
            is_sharing: whether drafting costs the target's time.
            progress: told in words how far it is.

        Raises:
            TreedraftError: the target cannot be loaded, or a prompt is too long.
        """
        torch.set_num_threads(num_threads)
        self._plan = plan
        self._num_threads = num_threads
        self._is_sharing = is_sharing
        self._progress = progress
        self._device = plan.device or "auto"
        self._settings = EvaluationSettings(
            temperatures=(plan.temperature,),
            max_tokens=plan.num_tokens,
            num_children=max(plan.children),
            max_depth=max(plan.depths),
            cost_rows=tuple(sorted({1, 2, *(1 + budget for budget in plan.budgets)})),
        )
        self._target = load_model(
            plan.target, dtype=plan.dtype, device=self._device, progress=progress
        )
        self.target_name = self._target.name
        self._texts = target_texts(self._target, plan.prompts, self._settings, progress)
        progress("timing passes of the target")
        self.cost = measure_cost(
            self._target, None, self._texts, self._settings, num_threads=num_threads
        )

    def predict(self, draft: str) -> DrafterFigures:
        """Return the figures of a drafter; one that cannot be used says why."""
        if not draft:
            return self._predict_lookup()
        try:
            return self._predict_model(draft)
        except TreedraftError as error:
            return DrafterFigures(draft, draft, error=error.message)

    def _predict_model(self, draft: str) -> DrafterFigures:
        model = load_drafting_model(draft, device=self._device, progress=self._progress)
        if model.tokenizer_hash != self._target.tokenizer_hash:
            raise IncompatiblePeerError(
                f"it has another tokenizer than {self._target.name}", reason="TOKENIZER_MISMATCH"
            )
        drafted, rounds = replay(
            model,
            self._texts,
            self._plan.shapes,
            self._settings,
            self._target.vocab_size,
            self._progress,
        )
        self._progress(f"timing passes of {model.name}")
        cost = measure_cost(
            self._target, model, self._texts, self._settings, num_threads=self._num_threads
        )
        lengths = [summarise(drafted, shape, counts) for shape, counts in rounds.items()]
        speeds = [predict_speed(length, cost) for length in lengths]
        return DrafterFigures(
            draft=draft,
            name=model.name,
            num_parameters=num_parameters(model.module),
            acceptance=measure_agreement(
                drafted, num_children=self._settings.num_children
            ).acceptance,
            ratio=cost.ratio(1, self._plan.temperature),
            predictions=_fastest_first(
                Prediction(
                    speed.shape,
                    speed.tau,
                    speed.on_shared_cores if self._is_sharing else speed.on_own_cores,
                )
                for speed in speeds
            ),
        )

    def _predict_lookup(self) -> DrafterFigures:
        self._progress("lookup: rehearsing")
        shapes = dict.fromkeys(
            TreeShape(shape.budget, shape.depth, 1) for shape in self._plan.shapes
        )
        return DrafterFigures(
            draft="",
            name=LOOKUP_NAME,
            predictions=_fastest_first(
                _rehearse_lookup(shape, self._texts, self.cost, self._target) for shape in shapes
            ),
        )


def _rehearse_lookup(
    shape: TreeShape, texts: Sequence[TargetText], cost: Cost, target: LoadedModel
) -> Prediction:
    """Return what lookup alone does with a shape, one text after the other.

    It seldom fills a pass, so a pass is taken to cost what one over the mean
    number of its nodes does.
    """
    settings = DraftSettings(
        growth=GrowthSettings(max_depth=shape.depth),
        lookup=LookupSettings(recent=RecentTrafficSettings(enabled=False)),
    )
    with Rehearsal(settings, None, vocab_size=target.vocab_size) as rehearsal:
        results = [
            rehearsal.run(
                [text], budget=shape.budget, max_depth=shape.depth, max_steps=_LOOKUP_STEPS
            )[0]
            for text in texts
        ]
    num_rounds = max(1, sum(result.num_rounds for result in results))
    tau = sum(result.num_tokens for result in results) / num_rounds
    num_nodes = sum(result.num_nodes for result in results) / num_rounds
    return Prediction(shape, tau, tau * cost.target(1) / cost.target(1 + num_nodes))


def _fastest_first(predictions: Iterable[Prediction]) -> tuple[Prediction, ...]:
    """Order by speed; among equals the smaller shape."""
    return tuple(sorted(predictions, key=lambda entry: (-entry.speed, entry.shape)))
