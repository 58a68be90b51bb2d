"""Distillation from a target to a drafter, stage by stage.

    prompts → responses → train → evaluate

Each stage builds on what the one before left in the workspace, so each can be
run alone, on another machine, or again: a stage that is finished is passed
over, one that was broken off goes on. What a stage's result depends on is in
its identity; on which device it ran, and how fast, is not.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from treedraft.core.errors import InvalidRequestError
from treedraft.inference.downloads import Progress
from treedraft.inference.weights import be_silent, resolve
from treedraft.training.checkpoint import remove_checkpoint
from treedraft.training.corpus import Corpus, CorpusWriter
from treedraft.training.evaluation.held_out import held_out_prompts
from treedraft.training.generation import free_memory, generator_factory
from treedraft.training.initial import fingerprint_of
from treedraft.training.prompt_grammar import fingerprint
from treedraft.training.prompt_store import PromptStore
from treedraft.training.prompts import collect_prompts
from treedraft.training.responses import PACE_OF_RESPONSES, collect_responses, done_jobs
from treedraft.training.settings import DistillSettings
from treedraft.training.target import TrainingTarget, load_target
from treedraft.training.train_settings import PACE_SETTINGS
from treedraft.training.workspace import StageIdentity, StageState, Workspace


class Stage(StrEnum):
    """A part of the work, in the order of the work."""

    PROMPTS = "prompts"
    RESPONSES = "responses"
    TRAIN = "train"
    EVALUATE = "evaluate"


def parse_stages(names: Sequence[str]) -> tuple[Stage, ...]:
    """Return stages by their names.

    Raises:
        InvalidRequestError: reason UNKNOWN_STAGE.
    """
    for name in names:
        if name not in list(Stage):
            raise InvalidRequestError(
                f"no stage is called {name!r}; there are {', '.join(Stage)}",
                field="stage",
                reason="UNKNOWN_STAGE",
            )
    return tuple(Stage(name) for name in names)


def distill(
    settings: DistillSettings,
    *,
    stages: Sequence[Stage] = (),
    redo: Sequence[Stage] = (),
    progress: Progress = be_silent,
) -> dict[Stage, Mapping[str, Any]]:
    """Make a drafter, or do some stages of it.

    Args:
        settings: all of them; stages that are not done read theirs too.
        stages: which ones to do; none given means all.
        redo: stages to do afresh. What they and all later ones made is removed, once:
            the same redo, broken off and asked for again, goes on.
        progress: told in plain words how far it is.

    Returns:
        Figures of each stage that was asked for.

    Raises:
        InvalidRequestError: reason STAGE_CHANGED; a stage on disk was made with
            other settings.
        TreedraftError: reason STAGE_MISSING; a stage before is not finished.
    """
    ordered = list(Stage)
    redone = ordered[min(ordered.index(stage) for stage in redo) :] if redo else []
    run = _Run(settings, redone, progress)
    if redone:
        run.workspace.begin_redo(redone)
    wanted = set(stages or Stage)
    results = {stage: run.do(stage) for stage in Stage if stage in wanted}
    run.workspace.end_redo()
    return results


class _Run:
    """One call of `distill`: the target is loaded when a stage needs it."""

    def __init__(
        self, settings: DistillSettings, redone: Sequence[Stage], progress: Progress
    ) -> None:
        self.workspace = Workspace(settings.work)
        self._settings = settings
        self._redone = redone
        self._progress = progress

    def do(self, stage: Stage) -> Mapping[str, Any]:
        """Do a stage unless it is finished; return its figures."""
        identity = self._identity(stage)
        if stage in self._redone and self.workspace.is_changed(stage, identity):
            self.workspace.discard([stage])
        state = self.workspace.state(stage, identity)
        if state is StageState.FINISHED:
            self._progress(f"{stage} is done already")
            manifest = self.workspace.manifest(stage)
            return manifest.result if manifest else {}
        self._progress(f"{stage} goes on" if state is StageState.BEGUN else f"{stage} begins")
        self.workspace.begin(stage, identity)
        steps: dict[Stage, Callable[[], Mapping[str, Any]]] = {
            Stage.PROMPTS: self._do_prompts,
            Stage.RESPONSES: self._do_responses,
            Stage.TRAIN: self._do_train,
            Stage.EVALUATE: self._do_evaluate,
        }
        result = steps[stage]()
        self.workspace.finish(stage, identity, result)
        remove_checkpoint(self.workspace.folder(stage))  # not before it is noted as finished
        free_memory()
        return result

    @cached_property
    def _target(self) -> TrainingTarget:
        settings = self._settings
        return load_target(
            settings.target, dtype=settings.dtype, device=settings.device, progress=self._progress
        )

    @cached_property
    def _target_name(self) -> str:
        return resolve(self._settings.target, self._progress).name

    def _identity(self, stage: Stage) -> StageIdentity:
        settings = self._settings
        common = {"target": self._target_name, "seed": settings.seed}
        if stage is Stage.PROMPTS:
            shape = settings.prompts.model_dump(mode="json")
            shape["files"] = [_hash_of_file(Path(path)) for path in settings.prompts.files]
            held_out = hashlib.sha256("\n".join(_held_out_texts()).encode()).hexdigest()
            shape["grammar"] = fingerprint()
            return StageIdentity({**common, "prompts": shape, "held_out": held_out})
        if stage is Stage.RESPONSES:
            shape = settings.responses.model_dump(mode="json", exclude=PACE_OF_RESPONSES)
            return self._after(Stage.PROMPTS, {**common, "responses": shape})
        if stage is Stage.TRAIN:
            shape = settings.train.model_dump(mode="json", exclude={*PACE_SETTINGS, "init"})
            if settings.train.init:
                shape["init"] = fingerprint_of(settings.train.init)
            return self._after(Stage.RESPONSES, {"target": self._target_name, "train": shape})
        shape = settings.evaluation.model_dump(mode="json")
        return self._after(Stage.TRAIN, {"target": self._target_name, "evaluation": shape})

    def _after(self, stage: Stage, shape: dict[str, Any]) -> StageIdentity:
        return StageIdentity(shape, {stage: self.workspace.fingerprint_of(stage)})

    def _do_prompts(self) -> Mapping[str, Any]:
        return collect_prompts(
            self._target,
            self._settings.prompts,
            self.workspace.folder(Stage.PROMPTS),
            _held_out_texts(),
            seed=self._settings.seed,
            make_generator=generator_factory(
                self._target, self._settings.generator, self._progress
            ),
            progress=self._progress,
        )

    def _do_responses(self) -> Mapping[str, Any]:
        folder = self.workspace.folder(Stage.RESPONSES)
        writer = CorpusWriter(folder)
        return collect_responses(
            self._target,
            PromptStore(self.workspace.folder(Stage.PROMPTS)).read(),
            self._settings.responses,
            writer,
            done_jobs(Corpus.open(folder)) if writer.num_parts else frozenset(),
            seed=self._settings.seed,
            make_generator=generator_factory(
                self._target, self._settings.generator, self._progress
            ),
            progress=self._progress,
        )

    def _do_train(self) -> Mapping[str, Any]:
        from treedraft.training.trainer import train

        result = train(
            self._target,
            Corpus.open(self.workspace.folder(Stage.RESPONSES)),
            self._settings.train,
            self.workspace.folder(Stage.TRAIN),
            self._settings.out,
            self._progress,
        )
        return result.to_json()

    def _do_evaluate(self) -> Mapping[str, Any]:
        # It needs what serving needs, which a machine for training may lack.
        from treedraft.training.evaluation.judgement import judge_and_write

        settings = self._settings
        report = judge_and_write(
            settings.target,
            settings.out,
            device=settings.evaluation_device,
            settings=settings.evaluation,
            out=settings.out,
            cache=self.workspace.folder(Stage.EVALUATE),
            progress=self._progress,
        )
        budget = max(settings.evaluation.budgets)
        return {
            f"T={temperature:g}": {
                "top_k": report.agreement_at(temperature).acceptance,
                f"tau_{budget}": report.tree(budget, temperature).tau,
            }
            for temperature in settings.evaluation.temperatures
        }


def _held_out_texts() -> list[str]:
    return [prompt.text for prompt in held_out_prompts()]


def _hash_of_file(path: Path) -> str:
    try:
        return hashlib.sha256(path.expanduser().read_bytes()).hexdigest()
    except OSError as error:
        raise InvalidRequestError(
            f"cannot read prompts from {path}: {error.strerror}",
            field="prompts",
            reason="PROMPTS_UNREADABLE",
        ) from error
