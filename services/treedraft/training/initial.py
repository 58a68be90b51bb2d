"""A drafter that training begins from, in place of layers of the target.

It is read with its own columns, since a head means nothing without them, and it must be a
drafter of the same target: same ids, same input embedding. The student may have more layers and
more columns (`growth`), never fewer: what would be cut off was learned to be relied on.
"""

import hashlib
import json
from collections.abc import Sequence
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
from treedraft.training.growth import pass_on, rows_for_new_ids, spread_into
from treedraft.training.recipe import TRAINING_FILE
from treedraft.training.student import LAYER_CHOICES, choose_layers, decoder_layers, output_head
from treedraft.training.target import TrainingTarget
from treedraft.training.train_settings import DEFAULT_COLUMNS, DEFAULT_LAYERS, TrainSettings
from treedraft.training.vocabulary import choose_vocabulary

_FIELD = "train.init"


_LAYER_PREFIX = "model.layers."


@dataclass(frozen=True, slots=True)
class InitialDrafter:
    """The columns and weights of a drafter; `layers` are the target's that it came from."""

    draft_token_ids: tuple[int, ...]
    weights: dict[str, Tensor]
    layers: tuple[int, ...]

    def put_into(
        self, student: PreTrainedModel, layers: Sequence[int], draft_token_ids: Sequence[int]
    ) -> None:
        """Give a student these weights; it says what this drafter says, and nearly only that.

        Args:
            student: from `make_student`, with the target's weights.
            layers: the target's that it was made of, those of this drafter among them.
            draft_token_ids: of its columns, those of this drafter among them.

        Raises:
            InvalidRequestError: reason INIT_MISMATCH; its layers have another shape.
            UnsupportedModelError: reason UNSUPPORTED_LAYER.
        """
        embedding = student.get_input_embeddings().weight
        named = student.named_parameters()
        wanted = {name: held for name, held in named if held is not embedding}
        weights = self._in_place(layers)
        head = output_head(student).weight
        head_name = next(name for name, held in wanted.items() if held is head)
        if head_name in weights:
            weights[head_name] = self._grown_head(weights[head_name], head, draft_token_ids)
        new = [place for place, layer in enumerate(layers) if layer not in self.layers]
        of_new = tuple(f"{_LAYER_PREFIX}{place}." for place in new)
        try:
            missing = set(student.load_state_dict(weights, strict=False).missing_keys)
        except RuntimeError as error:
            raise _mismatch("its layers have another shape than the target's") from error
        if lacking := sorted(n for n in missing & wanted.keys() if not n.startswith(of_new)):
            raise _mismatch(f"it has no weights named {lacking[0]}")
        for place in new:
            pass_on(decoder_layers(student)[place])

    def _in_place(self, layers: Sequence[int]) -> dict[str, Tensor]:
        """Return the weights by the names that they have in a student of these layers."""
        places = [list(layers).index(layer) for layer in self.layers]
        moved = {}
        for name, tensor in self.weights.items():
            if name.startswith(_LAYER_PREFIX):
                number, _, rest = name.removeprefix(_LAYER_PREFIX).partition(".")
                name = f"{_LAYER_PREFIX}{places[int(number)]}.{rest}"
            moved[name] = tensor
        return moved

    def _grown_head(
        self, trained: Tensor, target_rows: Tensor, draft_token_ids: Sequence[int]
    ) -> Tensor:
        """Return the head's rows, given the target's for all of a student's columns."""
        own = set(self.draft_token_ids)
        is_own = torch.tensor([token_id in own for token_id in draft_token_ids])
        rows = target_rows.detach().to("cpu", torch.float32, copy=True)
        if trained.shape != (len(own), rows.shape[1]):
            raise _mismatch("its head has another shape than the target's")
        if not bool(is_own.all()):
            rows[~is_own] = rows_for_new_ids(rows[is_own], trained, rows[~is_own])
        rows[is_own] = trained.float()
        return rows


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
    names = {name.split(".")[2] for name in weights if name.startswith(_LAYER_PREFIX)}
    if not names or names != {str(place) for place in range(len(names))}:
        raise _mismatch("its layers are not numbered from 0")
    if len(names) > (num_layers := len(decoder_layers(target.module))):
        raise _mismatch(f"it has {len(names)} layers, and the target {num_layers}")
    return InitialDrafter(manifest.draft_token_ids, weights, _origin_of(folder, len(names), target))


def student_layers(
    initial: InitialDrafter | None, settings: TrainSettings, target: TrainingTarget
) -> tuple[int, ...]:
    """Return the target's layers that a student is made of.

    A drafter's own come first; more are put between them, or where `layer_choice` names
    all of them.

    Raises:
        InvalidRequestError: reason INVALID_LAYERS; reason INIT_LARGER for fewer layers than
            the drafter has; reason INIT_MISMATCH for a choice without its layers.
    """
    num_layers = len(decoder_layers(target.module))
    if initial is None:
        return choose_layers(settings.layer_choice, settings.layers or DEFAULT_LAYERS, num_layers)
    depth = settings.layers or len(initial.layers)
    if depth < len(initial.layers):
        raise _larger(f"{len(initial.layers)} layers, and train.layers asks for {depth}")
    chosen = choose_layers(settings.layer_choice, depth, num_layers)
    if settings.layer_choice in LAYER_CHOICES or depth == len(initial.layers):
        return spread_into(initial.layers, depth, num_layers)
    if not set(initial.layers) <= set(chosen):
        own = ",".join(map(str, initial.layers))
        raise _mismatch(f"it came from layers {own}, which are not all in train.layer_choice")
    return chosen


def student_columns(
    initial: InitialDrafter | None, corpus: Corpus, settings: TrainSettings, target: TrainingTarget
) -> tuple[int, ...]:
    """Return the ids of a student's head: a drafter's own, then the most frequent ones.

    Raises:
        InvalidRequestError: reason INIT_LARGER for fewer columns than the drafter has.
    """
    own = initial.draft_token_ids if initial else ()
    size = settings.vocab_size or len(own) or DEFAULT_COLUMNS
    if size < len(own):
        raise _larger(f"{len(own)} columns, and train.vocab_size asks for {size}")
    if size == len(own):
        return own
    return choose_vocabulary(
        corpus, size, vocab_size=target.vocab_size, always={*own, *target.eos_token_ids}
    )


def _origin_of(folder: Path, depth: int, target: TrainingTarget) -> tuple[int, ...]:
    """Return the target's layers that a drafter came from; a guess, unless its folder says."""
    num_layers = len(decoder_layers(target.module))
    try:
        said = json.loads((folder / TRAINING_FILE).read_text(encoding="utf-8"))["layers"]
        return choose_layers(",".join(str(int(layer)) for layer in said), depth, num_layers)
    except (OSError, ValueError, KeyError, TypeError, InvalidRequestError):
        return choose_layers("even", depth, num_layers)


def _larger(what: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"a drafter can grow and not shrink: this one has {what}",
        field=_FIELD,
        reason="INIT_LARGER",
    )


def _mismatch(why: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"training cannot begin from this drafter: {why}", field=_FIELD, reason="INIT_MISMATCH"
    )
