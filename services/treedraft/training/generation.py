"""How many texts are written at once, and with what."""

import gc
from collections.abc import Sequence
from typing import Protocol

import torch
from pydantic import Field

from treedraft.inference.downloads import Progress
from treedraft.settings import Frozen
from treedraft.training.generator import Generator, kv_bytes_per_token
from treedraft.training.target import TrainingTarget

_MAX_SLOTS_ON_CUDA = 2048
_SLOTS_ON_CPU = 16
_SHARE_OF_MEMORY = 0.6  # of what is free, the rest being activations
_BYTES_PER_LOGIT = 14  # as they come, as float32, and their noise


class GeneratorSettings(Frozen):
    """How the batched generator uses the device."""

    num_slots: int = Field(
        default=0,
        ge=0,
        description="Texts at once. 0 takes 2048 on CUDA, fewer if memory is short, and 16 on a "
        "CPU.",
    )
    window: int = Field(
        default=8, ge=1, description="Steps between two looks of the host at what is done."
    )
    cuda_graph: bool = Field(
        default=True, description="Whether a step is captured as a CUDA graph."
    )


class GeneratorFactory(Protocol):
    """Makes a generator for a stage."""

    def __call__(
        self, *, num_jobs: int, max_length: int, prefix_ids: Sequence[int], seed: int
    ) -> Generator:
        """Return a generator with no more slots than there are jobs."""


def generator_factory(
    target: TrainingTarget, settings: GeneratorSettings, progress: Progress
) -> GeneratorFactory:
    """Return what makes generators of this target."""

    def make(*, num_jobs: int, max_length: int, prefix_ids: Sequence[int], seed: int) -> Generator:
        return Generator(
            target,
            num_slots=max(1, min(num_jobs, settings.num_slots or _fitting(target, max_length))),
            max_length=max_length,
            prefix_ids=prefix_ids,
            seed=seed,
            window=settings.window,
            uses_graph=settings.cuda_graph,
            progress=progress,
        )

    return make


def _fitting(target: TrainingTarget, max_length: int) -> int:
    """Return how many slots the device has room for."""
    if target.device.type != "cuda":
        return _SLOTS_ON_CPU
    free, _ = torch.cuda.mem_get_info(target.device)
    slot_bytes = kv_bytes_per_token(target) * max_length + _BYTES_PER_LOGIT * target.vocab_size
    return min(_MAX_SLOTS_ON_CUDA, int(_SHARE_OF_MEMORY * free / slot_bytes))


def free_memory() -> None:
    """Give the device back what is no longer used, graphs and caches of keys included."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
