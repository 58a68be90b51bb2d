"""What a training run is, and what it came to."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from treedraft.training.corpus import Corpus
from treedraft.training.files import replace_text
from treedraft.training.target import TrainingTarget
from treedraft.training.train_settings import PACE_SETTINGS, TrainSettings
from treedraft.training.validation import Validation

TRAINING_FILE = "training.json"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a run came to.

    `layers` are the target's that the drafter began as; `coverage` is the share of
    answer tokens that it has columns for; `num_answer_tokens` are those of the texts and
    `num_tokens` those it was trained on, with repetitions; `init` names the drafter that it
    began from instead of these layers; `kept_average` says that the moving average was the better.
    """

    layers: tuple[int, ...]
    draft_vocab_size: int
    coverage: float
    num_parameters: int
    num_steps: int
    num_tokens: int
    num_answer_tokens: int
    init: str
    seconds: float
    kept_average: bool
    validation: Validation

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        return asdict(self)

    def write(self, folder: Path) -> None:
        """Leave the figures in the drafter's folder."""
        replace_text(folder / TRAINING_FILE, json.dumps(self.to_json(), indent=1) + "\n")


def pass_dtype(target: TrainingTarget, settings: TrainSettings) -> torch.dtype:
    """Return the dtype of a student's passes."""
    if settings.precision == "auto":
        return torch.float32 if target.device.type == "cpu" else torch.bfloat16
    return _DTYPES[settings.precision]


def run_identity(
    target: TrainingTarget, corpus: Corpus, settings: TrainSettings, layers: tuple[int, ...]
) -> str:
    """Return a hash of all that decides what a run comes to."""
    shaping = settings.model_dump(mode="json", exclude=PACE_SETTINGS)
    texts = hashlib.sha256(corpus.lengths.tobytes() + corpus.prompt_lengths.tobytes()).hexdigest()
    described = [
        shaping,
        list(layers),
        target.name,
        target.tokenizer_hash,
        str(target.dtype),
        texts,
    ]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
