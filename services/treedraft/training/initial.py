"""A drafter that training begins from, in place of layers of the target.

It is read with its own columns, since a head means nothing without them, and it must be a
drafter of the same target: same ids, same input embedding.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from treedraft.core.errors import InvalidRequestError
from treedraft.inference.drafter_folder import WEIGHTS_FILE, read_own_weights
from treedraft.inference.drafter_manifest import MANIFEST_FILE, is_drafter_folder, read_manifest
from treedraft.inference.drafters import shipped_drafter
from treedraft.inference.target_embedding import embedding_sha256
from treedraft.training.corpus import Corpus
from treedraft.training.target import TrainingTarget
from treedraft.training.train_settings import TrainSettings
from treedraft.training.vocabulary import choose_vocabulary

_FIELD = "train.init"


@dataclass(frozen=True, slots=True)
class InitialDrafter:
    """The columns and weights of a drafter; `num_layers` is how deep it is."""

    draft_token_ids: tuple[int, ...]
    weights: dict[str, Tensor]
    num_layers: int

    def put_into(self, student: PreTrainedModel) -> None:
        """Give a student of as many layers and columns these weights.

        Raises:
            InvalidRequestError: reason INIT_MISMATCH; its layers have another shape.
        """
        embedding = student.get_input_embeddings().weight
        wanted = {name for name, held in student.named_parameters() if held is not embedding}
        try:
            with torch.no_grad():
                missing = set(student.load_state_dict(self.weights, strict=False).missing_keys)
        except RuntimeError as error:
            raise _mismatch("its layers have another shape than the target's") from error
        if missing & wanted:
            raise _mismatch(f"it has no weights named {sorted(missing & wanted)[0]}")


def resolve_initial(name: str) -> Path:
    """Return the folder of a drafter by its path or the name of a shipped one.

    Raises:
        InvalidRequestError: reason INIT_NOT_FOUND.
    """
    folder = shipped_drafter(name) or Path(name).expanduser()
    if not is_drafter_folder(folder):
        raise InvalidRequestError(
            f"{name!r} is neither the folder of a drafter nor a shipped one",
            field=_FIELD,
            reason="INIT_NOT_FOUND",
        )
    return folder


def fingerprint_of(name: str) -> str:
    """Return a hash of the drafter's weights and columns."""
    folder = resolve_initial(name)
    digest = hashlib.sha256()
    for file in (MANIFEST_FILE, WEIGHTS_FILE):
        digest.update((folder / file).read_bytes())
    return digest.hexdigest()


def read_initial(name: str, target: TrainingTarget) -> InitialDrafter:
    """Read the drafter that training begins from.

    Raises:
        InvalidRequestError: reason INIT_NOT_FOUND, or INIT_MISMATCH for the drafter of
            another target.
        UnsupportedModelError: the folder is damaged.
    """
    folder = resolve_initial(name)
    manifest = read_manifest(folder, vocab_size=target.vocab_size)
    if manifest.tokenizer_hash != target.tokenizer_hash:
        raise _mismatch("it has another tokenizer than the target")
    embedding = target.module.get_input_embeddings().weight
    assert isinstance(embedding, Tensor)
    if manifest.embedding_sha256 != embedding_sha256(embedding):
        raise _mismatch("it reads another input embedding than the target's")
    weights = read_own_weights(folder)
    layers = {name.split(".")[2] for name in weights if name.startswith("model.layers.")}
    return InitialDrafter(manifest.draft_token_ids, weights, len(layers))


def choose_columns(
    initial: InitialDrafter | None, corpus: Corpus, settings: TrainSettings, target: TrainingTarget
) -> tuple[int, ...]:
    """Return the ids of a student's head: those it begins with, or the most frequent ones.

    Raises:
        InvalidRequestError: reason INIT_MISMATCH for a drafter of another depth.
    """
    if initial is None:
        return choose_vocabulary(
            corpus, settings.vocab_size, vocab_size=target.vocab_size, always=target.eos_token_ids
        )
    if initial.num_layers != settings.layers:
        raise _mismatch(
            f"it has {initial.num_layers} layers, and train.layers asks for {settings.layers}"
        )
    return initial.draft_token_ids


def _mismatch(why: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"training cannot begin from this drafter: {why}", field=_FIELD, reason="INIT_MISMATCH"
    )
