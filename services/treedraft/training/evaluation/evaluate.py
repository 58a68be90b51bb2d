"""Judges a drafter on texts of its target that it never saw.

    texts → agreement, τ by shape → the drafter's own loop → times → report

The texts are the target's own for the held-out prompts, or for a user's. Every
figure but the times is a function of the two models, the prompts and the settings.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from treedraft.core.errors import IncompatiblePeerError
from treedraft.inference.downloads import Progress
from treedraft.inference.models import LoadedModel
from treedraft.inference.native.decoder import NativeLinear
from treedraft.inference.prepacked import PackedLinear
from treedraft.inference.stamp import take_stamp
from treedraft.inference.weights import be_silent
from treedraft.training.evaluation.agreement import Agreement, measure_agreement
from treedraft.training.evaluation.cost import measure_cost, predict_speed
from treedraft.training.evaluation.held_out import HeldOutPrompt, held_out_prompts
from treedraft.training.evaluation.own_loop import rehearse
from treedraft.training.evaluation.probe import DraftedText, DraftProbe, groups_of
from treedraft.training.evaluation.report import Report, Subject
from treedraft.training.evaluation.settings import EvaluationSettings
from treedraft.training.evaluation.texts import TargetText, target_texts
from treedraft.training.evaluation.tree_length import (
    TreeLength,
    TreeShape,
    summarise,
    tree_lengths,
)

# Larger trees are not considered for speed: a pass over them is never cheap.
_MAX_FAST_BUDGET = 32
# The shapes whose τ is told by category: what the bars of a drafter are about.
_BUDGETS_BY_CATEGORY = (16,)


def evaluate(
    target: LoadedModel,
    draft: LoadedModel,
    prompts: Sequence[HeldOutPrompt] = (),
    settings: EvaluationSettings | None = None,
    progress: Progress = be_silent,
    *,
    cache: Path | None = None,
    measures_cost: bool = True,
) -> Report:
    """Return everything about a drafter.

    Args:
        target: the model that verifies, loaded to be run by rows.
        draft: a drafter, or any model of the target's tokenizer, likewise.
        prompts: what to answer; the held-out ones by default.
        settings: what to look at.
        progress: told in plain words how far it is.
        cache: folder that keeps the target's texts for the next time.
        measures_cost: whether to time passes, which wants a quiet machine.

    Raises:
        IncompatiblePeerError: reason TOKENIZER_MISMATCH.
        InvalidRequestError: the target has no chat template.
        PromptTooLongError: a prompt and its text do not fit into the context.
    """
    if target.tokenizer_hash != draft.tokenizer_hash:
        raise IncompatiblePeerError(
            f"{draft.name} has another tokenizer than {target.name}", reason="TOKENIZER_MISMATCH"
        )
    settings = settings or EvaluationSettings()
    prompts = prompts or held_out_prompts()
    stamp = take_stamp()
    clock = _Stopwatch()
    with clock.part("texts"):
        texts = target_texts(target, prompts, settings, progress, cache=cache)
    agreement: list[Agreement] = []
    lengths: list[TreeLength] = []
    with clock.part("trees"):
        for temperature in settings.temperatures:
            own = [text for text in texts if text.temperature == temperature]
            found = _judge(draft, own, settings, target.vocab_size, progress)
            agreement += found[0]
            lengths += found[1]
    with clock.part("rehearsal"):
        rehearsed = rehearse(draft, texts, settings, target.vocab_size, progress)
    cost = None
    if measures_cost:
        progress("timing passes of target and drafter")
        with clock.part("times"):
            cost = measure_cost(target, draft, texts, settings, num_threads=torch.get_num_threads())
    fast = [
        entry for entry in lengths if not entry.category and entry.shape.budget <= _MAX_FAST_BUDGET
    ]
    return Report(
        stamp=stamp,
        target=_subject(target),
        drafter=_subject(draft),
        settings=settings,
        num_prompts=len(prompts),
        seconds=clock.seconds,
        agreement=tuple(agreement),
        lengths=tuple(lengths),
        rehearsed=rehearsed,
        cost=cost,
        speeds=tuple(predict_speed(entry, cost) for entry in fast) if cost else (),
    )


def shapes_of(settings: EvaluationSettings) -> list[TreeShape]:
    """Return the shapes whose τ is measured: chains, best trees, and shallow trees."""
    chains = [TreeShape.chain(budget) for budget in settings.budgets]
    trees = [
        TreeShape(budget, settings.max_depth, settings.num_children) for budget in settings.budgets
    ]
    shallow = [
        TreeShape(budget, depth, settings.num_children)
        for budget in settings.budgets
        for depth in settings.depths
        if depth <= budget <= _MAX_FAST_BUDGET
    ]
    return list(dict.fromkeys([*chains, *trees, *shallow]))


def _judge(
    draft: LoadedModel,
    texts: Sequence[TargetText],
    settings: EvaluationSettings,
    vocab_size: int,
    progress: Progress,
) -> tuple[list[Agreement], list[TreeLength]]:
    """Return agreement and τ over texts of one temperature."""
    drafted, rounds = replay(draft, texts, shapes_of(settings), settings, vocab_size, progress)
    categories = ("", *dict.fromkeys(text.category for text in texts))
    agreement = [
        measure_agreement(
            [text for text in drafted if category in ("", text.text.category)],
            num_children=settings.num_children,
            category=category,
        )
        for category in categories
    ]
    by_category = [
        TreeShape(budget, settings.max_depth, settings.num_children)
        for budget in _BUDGETS_BY_CATEGORY
        if budget in settings.budgets
    ]
    lengths = [summarise(drafted, shape, counts) for shape, counts in rounds.items()]
    lengths += [
        summarise(drafted, shape, rounds[shape], category=category)
        for shape in by_category
        for category in categories[1:]
    ]
    return agreement, lengths


def replay(
    draft: LoadedModel,
    texts: Sequence[TargetText],
    shapes: Sequence[TreeShape],
    settings: EvaluationSettings,
    vocab_size: int,
    progress: Progress,
) -> tuple[list[DraftedText], dict[TreeShape, list[int]]]:
    """Return what a model drafts for texts of one temperature, and the rounds by shape.

    So many texts at a time as there is memory for their KV.
    """
    words = f"{draft.name}: trees at temperature {texts[0].temperature:g}"
    num_children = max(settings.num_children, *(shape.num_children for shape in shapes))
    drafted: list[DraftedText] = []
    rounds: dict[TreeShape, list[int]] = {shape: [] for shape in shapes}
    for group in groups_of(draft, texts):
        done, share = len(drafted) / len(texts), len(group) / len(texts)
        progress(f"{words}: {int(100 * done)} %")

        def tell(part: float, done: float = done, share: float = share) -> None:
            progress(f"{words}: {int(100 * (done + share * part))} %")

        probe = DraftProbe(draft, group, num_children=num_children, vocab_size=vocab_size)
        own = probe.read(group)
        found = tree_lengths(
            probe,
            own,
            shapes,
            min_score=settings.min_score,
            max_rows=settings.max_rows,
            tell=tell,
        )
        drafted += own
        for shape, counts in found.items():
            rounds[shape] += counts
    return drafted, rounds


def _subject(model: LoadedModel) -> Subject:
    return Subject(
        name=model.name,
        fingerprint=model.fingerprint,
        dtype=str(model.dtype).removeprefix("torch."),
        device=model.device.type,
        num_layers=model.num_layers,
        num_parameters=num_parameters(model.module),
        num_head_tokens=model.vocab_size,
    )


def num_parameters(module: nn.Module) -> int:
    """Return the numbers that a pass computes with; packed layers keep theirs to themselves."""
    matrices = sum(
        layer.in_features * layer.out_features
        for layer in module.modules()
        if isinstance(layer, nn.Linear | PackedLinear | NativeLinear)
    )
    return matrices + sum(p.numel() for p in module.parameters() if p.ndim == 1)


class _Stopwatch:
    """Knows what the parts of the work took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 1)
