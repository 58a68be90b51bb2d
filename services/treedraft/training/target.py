"""The target as training sees it: transformers' own module, and its words.

Serving runs a target through our attention function with packed weights; what
is done here, whole texts and their gradients, needs neither. The weights, the
tokenizer and the ids that end a text are those of serving, since the same
loader reads them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from treedraft.core.errors import InvalidRequestError, UnsupportedModelError
from treedraft.core.generation import ChatMessage
from treedraft.inference.downloads import Progress
from treedraft.inference.drafter_folder import is_drafter_folder
from treedraft.inference.models import load_model
from treedraft.inference.weights import be_silent, resolve
from treedraft.text.chat_template import render_chat
from treedraft.text.tokenizer import Tokenizer

_ATTENTION = "sdpa"


@dataclass(frozen=True, slots=True)
class TrainingTarget:
    """A target whose text is to be drafted.

    `module` is in eval mode, its parameters need no gradient. `source` is what
    `weights.resolve` was given, `vocab_size` the rows of the head, which may be
    more than the tokenizer has tokens.
    """

    name: str
    source: str
    module: PreTrainedModel
    device: torch.device
    dtype: torch.dtype
    tokenizer: Tokenizer
    tokenizer_json: str
    tokenizer_hash: str
    eos_token_ids: frozenset[int]
    chat_template: str
    special_tokens: dict[str, str]
    adds_bos: bool
    vocab_size: int
    context_length: int

    def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Return the ids of a conversation up to the opening of the answer.

        Raises:
            InvalidRequestError: reason CHAT_TEMPLATE_FAILED.
        """
        return self.tokenizer.encode(self.render_chat(messages))

    def render_chat(self, messages: Sequence[ChatMessage]) -> str:
        """Return the text of a conversation up to the opening of the answer.

        Raises:
            InvalidRequestError: reason CHAT_TEMPLATE_FAILED.
        """
        return render_chat(self.chat_template, messages, self.special_tokens)


def load_target(
    source: str, *, dtype: str = "auto", device: str = "auto", progress: Progress = be_silent
) -> TrainingTarget:
    """Load a target for training.

    Args:
        source: `default`, a folder, a `.gguf` file or a hub id.
        dtype: `float32`, `bfloat16`, `float16` or `auto`, as `load_model` has it.
        device: a torch device or `auto`.
        progress: told in plain words what takes long.

    Raises:
        InvalidRequestError: reason MODEL_NOT_FOUND; or NO_CHAT_TEMPLATE, since all
            text that we train on comes out of conversations.
        UnsupportedModelError: as for serving; reason NOT_A_TARGET for a drafter.
        UnavailableError: reason WEIGHTS_UNAVAILABLE.
    """
    files = resolve(source, progress)
    if is_drafter_folder(files.folder):
        raise UnsupportedModelError(
            f"{files.name} is a drafter and has no drafter of its own: give its target",
            reason="NOT_A_TARGET",
        )
    loaded = load_model(
        source,
        dtype=dtype,
        device=device,
        attention=_ATTENTION,
        is_packed=False,
        progress=progress,
    )
    if not loaded.chat_template:
        raise InvalidRequestError(
            f"{loaded.name} has no chat template, so nobody can talk to it",
            field="target",
            reason="NO_CHAT_TEMPLATE",
        )
    return TrainingTarget(
        name=loaded.name,
        source=source,
        module=loaded.module,
        device=loaded.device,
        dtype=loaded.dtype,
        tokenizer=Tokenizer.from_json(loaded.tokenizer_json),
        tokenizer_json=loaded.tokenizer_json,
        tokenizer_hash=loaded.tokenizer_hash,
        eos_token_ids=loaded.eos_token_ids,
        chat_template=loaded.chat_template,
        special_tokens=loaded.special_tokens,
        adds_bos=loaded.adds_bos,
        vocab_size=loaded.vocab_size,
        context_length=loaded.context_length,
    )
