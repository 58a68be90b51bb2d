"""What students are taught with: a teacher, its texts in batches, texts held out.

Training one drafter and comparing recipes for several need the same; the
students differ, what they are shown does not.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from treedraft.inference.downloads import Progress
from treedraft.inference.weights import be_silent
from treedraft.training.batches import BatchMaker, Indices, plan_epoch, split_documents
from treedraft.training.causal_attention import CAUSAL_ATTENTION
from treedraft.training.compilation import with_fallback
from treedraft.training.corpus import Corpus
from treedraft.training.quick_norms import quick_norms
from treedraft.training.student import check_head, output_head
from treedraft.training.target import TrainingTarget
from treedraft.training.teacher import Teacher, TeacherBatch, TeacherCache, summarise
from treedraft.training.train_settings import TrainSettings
from treedraft.training.validation import OTHER_TEMPERATURE

# Left free on an accelerator for students, their logits and what torch keeps.
_FREE_BYTES = 32 << 30


class Teaching:
    """A teacher and its texts."""

    def __init__(
        self,
        target: TrainingTarget,
        corpus: Corpus,
        settings: TrainSettings,
        progress: Progress = be_silent,
    ) -> None:
        """Split the texts and look at those held out.

        Raises:
            InvalidRequestError: reason CORPUS_TOO_SMALL.
            UnsupportedModelError: reason UNSUPPORTED_HEAD.
        """
        check_head(target.module)
        self._corpus = corpus
        self._settings = settings
        self.split = split_documents(corpus, settings.validation_prompts, target.context_length)
        self._maker = BatchMaker(corpus, target.device)
        summary = summarise
        if settings.compilation != "off" and target.device.type == "cuda":
            summary = with_fallback(torch.compile(summarise), summarise, progress)
        self.teacher = Teacher(
            target.module,
            chunk_rows=settings.chunk_rows,
            cache=self._make_cache(target.module, progress),
            summary=summary,
        )
        answers = corpus.lengths - corpus.prompt_lengths
        self.num_training_rows = int(answers[self.split.training].sum(dtype="int64"))
        self.validation = [
            self.teacher.look_at(self._maker.make(documents), OTHER_TEMPERATURE)
            for documents in self._plan(self.split.validation, epoch=0)
        ]

    def plan_epoch(self, epoch: int) -> list[Indices]:
        """Return the documents of each batch of an epoch."""
        return self._plan(self.split.training, epoch)

    def look_at(self, documents: Indices) -> TeacherBatch:
        """Return a batch and what the teacher says about it."""
        return self.teacher.look_at(self._maker.make(documents))

    def _plan(self, documents: Indices, epoch: int) -> list[Indices]:
        return plan_epoch(
            self._corpus,
            documents,
            batch_tokens=self._settings.batch_tokens,
            seed=self._settings.seed,
            epoch=epoch,
        )

    def _make_cache(self, module: PreTrainedModel, progress: Progress) -> TeacherCache | None:
        device = module.device
        if not self._settings.cache_teacher or device.type != "cuda" or self._settings.epochs <= 1:
            return None
        num_rows, hidden = self._maker.num_stored_rows, output_head(module).in_features
        size = TeacherCache.size_in_bytes(num_rows, hidden, module.dtype)
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(device)
        if size + _FREE_BYTES > free:
            progress(f"the target's states ({size / 1e9:.0f} GB) do not fit in memory: not kept")
            return None
        progress(f"keeping the target's states of all texts, {size / 1e9:.1f} GB")
        return TeacherCache(num_rows, self._corpus.num_documents, hidden, module.dtype, device)


@contextmanager
def causally_attending(module: PreTrainedModel) -> Iterator[None]:
    """Give a module our causal attention, and quick norms, for a while."""
    before = module.config._attn_implementation
    module.set_attn_implementation(CAUSAL_ATTENTION)
    try:
        with quick_norms(module):
            yield
    finally:
        module.set_attn_implementation(before)
