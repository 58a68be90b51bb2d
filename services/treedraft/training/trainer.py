"""The third stage: a drafter that learns from the target's texts.

Texts go by in batches; of each the teacher says what it thinks (`teacher`),
the student takes a step (`student_trainer`). Now and then the student is looked
at on texts held out, and everything is saved, so that a run that is broken off
goes on where it was. What can fail at the end, writing the drafter, is done
at the start too.

A run ends when the texts were seen as often as wanted or when its time is up,
whichever comes first, and the learning rate is planned for that.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from treedraft.inference.downloads import Progress
from treedraft.inference.drafter_folder import save_drafter
from treedraft.inference.weights import be_silent
from treedraft.training.batches import Indices
from treedraft.training.checkpoint import load_checkpoint, save_checkpoint
from treedraft.training.compilation import compile_layers_if_possible, undo_compilation
from treedraft.training.corpus import Corpus
from treedraft.training.history import TrainingHistory
from treedraft.training.initial import read_initial, student_columns, student_layers
from treedraft.training.optimisation import learning_rate_factor
from treedraft.training.recipe import TrainingResult, pass_dtype, run_identity
from treedraft.training.student import make_student
from treedraft.training.student_trainer import StudentTrainer
from treedraft.training.target import TrainingTarget
from treedraft.training.teaching import Teaching, causally_attending
from treedraft.training.train_settings import TrainSettings
from treedraft.training.validation import Validation, validate
from treedraft.training.vocabulary import coverage

DRAFTER_SO_FAR = "drafter-so-far"


def train(
    target: TrainingTarget,
    corpus: Corpus,
    settings: TrainSettings,
    work: Path,
    out: Path,
    progress: Progress = be_silent,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> TrainingResult:
    """Train a drafter and write its folder.

    Args:
        target: whose drafter.
        corpus: what it wrote.
        settings: of the drafter and its training.
        work: for checkpoints, `history.json` and the drafter as it is so far; a run
            that was broken off there is gone on with. The last checkpoint stays:
            given it, the same call writes the same drafter again, and takes no step.
        out: where the drafter is written.
        progress: told in plain words how it goes.
        clock: seconds from anywhere.

    Raises:
        InvalidRequestError: reason INVALID_LAYERS, VOCABULARY_TOO_SMALL,
            CORPUS_TOO_SMALL or CORPUS_MISMATCH.
        UnsupportedModelError: reason UNSUPPORTED_HEAD.
        TreedraftError: reason TRAINING_DIVERGED.
    """
    work.mkdir(parents=True, exist_ok=True)
    with causally_attending(target.module):
        run = TrainingRun(target, corpus, settings, work, progress, clock)
        try:
            run.go_on()
            run.train_to_the_end()
            run.save()
            return run.finish(out)
        finally:
            undo_compilation(target.module)


class TrainingRun:
    """One drafter in training."""

    def __init__(
        self,
        target: TrainingTarget,
        corpus: Corpus,
        settings: TrainSettings,
        work: Path,
        progress: Progress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make the student, split the texts, and write a drafter once to see that it works."""
        self._target, self._settings, self._work = target, settings, work
        self._num_answer_tokens = corpus.num_response_tokens
        self._progress, self._clock = progress, clock
        initial = read_initial(settings.init, target) if settings.init else None
        self.layers = student_layers(initial, settings, target)
        self.draft_token_ids = student_columns(initial, corpus, settings, target)
        self.coverage = coverage(corpus, self.draft_token_ids, target.vocab_size)
        progress(
            f"layers {', '.join(map(str, self.layers))}; {len(self.draft_token_ids):,} ids cover "
            f"{self.coverage:.1%} of {corpus.num_response_tokens:,} answer tokens"
        )
        self.student = make_student(
            target.module, self.layers, self.draft_token_ids, dtype=pass_dtype(target, settings)
        )
        if initial:
            initial.put_into(self.student, self.layers, self.draft_token_ids)
        self._write_drafter(work / DRAFTER_SO_FAR)
        self.teaching = Teaching(target, corpus, settings, progress)
        self.trainer = StudentTrainer(
            self.student, self.draft_token_ids, target.module, settings, progress=progress
        )
        if settings.compilation == "all" and target.device.type == "cuda":
            first = self.teaching.plan_epoch(0)[0]
            compile_layers_if_possible(
                (target.module, self.student),
                lambda: self.trainer.rehearse(self.teaching.look_at(first)),
                progress,
            )
        self._identity = run_identity(target, corpus, settings, self.layers)
        self._total_tokens = settings.epochs * self.teaching.num_training_rows
        self.num_steps = self.num_tokens = self._epoch = self._next_batch = 0
        self._seconds_before = 0.0
        self._history = TrainingHistory(work)
        self._start_clock()

    @property
    def seconds(self) -> float:
        """Time of training, that of earlier runs included."""
        return self._seconds_before + self._clock() - self._started

    @property
    def share(self) -> float:
        """How much of the run is done, 1 at its end."""
        by_tokens = self.num_tokens / self._total_tokens
        limit = self._settings.max_seconds
        return min(1.0, max(by_tokens, self.seconds / limit if limit else 0.0))

    def go_on(self) -> bool:
        """Take up a run that was broken off; False if there is none."""
        state = load_checkpoint(self._work, self._identity, self._target.device, self._progress)
        if state is None:
            return False
        self.trainer.load_state_dict(state["trainer"])
        self.num_steps, self.num_tokens = state["num_steps"], state["num_tokens"]
        self._epoch, self._next_batch = state["epoch"], state["next_batch"]
        self._seconds_before = state["seconds"]
        self._history.restore(state["history"])
        self._start_clock()
        self._progress(f"going on at step {self.num_steps}, {self.share:.0%} done")
        return True

    def train_to_the_end(self, max_steps: int | None = None) -> None:
        """Take steps until the run is done, or so many; save when interrupted."""
        try:
            while self.share < 1.0:
                batches = self.teaching.plan_epoch(self._epoch)
                for documents in batches[self._next_batch :]:
                    if self.share >= 1.0 or max_steps == 0:
                        return
                    self._step(documents)
                    self._look_after()
                    max_steps = None if max_steps is None else max_steps - 1
                self._epoch, self._next_batch = self._epoch + 1, 0
        except KeyboardInterrupt:
            self.save()
            raise

    def save(self) -> None:
        """Write a checkpoint, and the drafter as it is so far."""
        save_checkpoint(
            self._work,
            self._identity,
            {
                "trainer": self.trainer.state_dict(),
                "num_steps": self.num_steps,
                "num_tokens": self.num_tokens,
                "epoch": self._epoch,
                "next_batch": self._next_batch,
                "seconds": self.seconds,
                "history": self._history.to_json(),
            },
        )
        self._write_drafter(self._work / DRAFTER_SO_FAR, self.trainer.weights.in_use())
        self._saved = self._clock()

    def finish(self, out: Path) -> TrainingResult:
        """Write the drafter, with the moving average if that is better, and the history.

        Weights are rounded first: what is looked at here is what will be read.
        """
        seconds = self.seconds
        self.trainer.weights.round_as(self._settings.storage)
        validation = self._look()
        kept_average = False
        if self.trainer.weights.use_average():
            averaged = validate(self.trainer, self.teaching.validation)
            kept_average = averaged.top[0] > validation.top[0]
            if kept_average:
                validation = averaged
            else:
                self.trainer.weights.use_latest()
        self._write_drafter(out, self.trainer.weights.in_use())
        self._history.write()
        self._progress(f"drafter in {out}: {validation}")
        result = TrainingResult(
            layers=self.layers,
            draft_vocab_size=len(self.draft_token_ids),
            coverage=self.coverage,
            num_parameters=sum(p.numel() for p in self.student.parameters() if p.requires_grad),
            num_steps=self.num_steps,
            num_tokens=self.num_tokens,
            num_answer_tokens=self._num_answer_tokens,
            init=self._settings.init,
            seconds=seconds,
            kept_average=kept_average,
            validation=validation,
        )
        result.write(out)
        return result

    def _start_clock(self) -> None:
        self._started = self._saved = self._looked = self._clock()
        self._tokens_at_start = self.num_tokens

    def _step(self, documents: Indices) -> None:
        share = self.share
        num_rows = self._learn(documents, share)
        if num_rows is None:  # outside of the handler, which would hold on to the tensors
            self._progress("memory ran out: giving back what can be spared, and once more")
            self.teaching.teacher.forget()
            self.student.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            num_rows = self._learn(documents, share, is_last_try=True) or 0
        self.num_steps += 1
        self.num_tokens += num_rows
        self._next_batch += 1

    def _learn(self, documents: Indices, share: float, *, is_last_try: bool = False) -> int | None:
        """Take a step and return its rows, None if memory ran out."""
        try:
            batch = self.teaching.look_at(documents)
            self.trainer.step(batch, share)
        except torch.OutOfMemoryError:
            if is_last_try:
                raise
            return None
        return batch.tokens.num_rows

    def _look_after(self) -> None:
        """Report, look and save when it is time."""
        if self.num_steps % self._settings.log_steps == 0:
            self._report()
        now = self._clock()
        if now - self._looked >= self._settings.validation_seconds:
            self._progress(f"held out: {self._look()}")
        if now - self._saved >= self._settings.checkpoint_seconds:
            self.save()

    def _report(self) -> None:
        report = self.trainer.report()
        rate = self._settings.learning_rate * learning_rate_factor(self.share, self._settings)
        speed = (self.num_tokens - self._tokens_at_start) / max(1e-9, self._clock() - self._started)
        self._progress(
            f"{self.share:6.1%}  step {self.num_steps}  {self.num_tokens / 1e6:.2f} M tokens  "
            f"{speed:,.0f} tokens/s  loss {report.loss:.4f}  accepted {report.accepted:.3f}  "
            f"gradient {report.gradient_norm:.2f}  rate {rate:.2e}"
        )

    def _look(self) -> Validation:
        validation = validate(self.trainer, self.teaching.validation)
        self._history.add(
            validation,
            step=self.num_steps,
            tokens=self.num_tokens,
            seconds=round(self.seconds, 1),
            share=round(self.share, 4),
        )
        self._looked = self._clock()
        return validation

    def _write_drafter(self, folder: Path, precise: Mapping[str, Tensor] | None = None) -> None:
        save_drafter(
            self.student,
            self.draft_token_ids,
            folder,
            target_name=self._target.name,
            target_source=self._target.source,
            tokenizer_hash=self._target.tokenizer_hash,
            eos_token_ids=self._target.eos_token_ids,
            weights=self._settings.storage,
            precise=precise,
        )
