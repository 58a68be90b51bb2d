"""A model's tokenizer as text, for those who have no transformers.

A drafter folder has none: ids are all that pass between it and its target, and
the hash says whose ids they are.
"""

from dataclasses import dataclass, field
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel

from treedraft.core.errors import UnsupportedModelError
from treedraft.inference.weights import ModelFiles
from treedraft.text.tokenizer import tokenizer_hash


@dataclass(frozen=True, slots=True)
class ModelTokenizer:
    """What a loaded model says of its ids; all but hash and ends may be empty."""

    tokenizer_hash: str
    eos_token_ids: frozenset[int]
    tokenizer_json: str = ""
    chat_template: str = ""
    special_tokens: dict[str, str] = field(default_factory=dict)
    adds_bos: bool = False


def load_tokenizer(files: ModelFiles) -> Any:
    """Return transformers' fast tokenizer of a model.

    Raises:
        UnsupportedModelError: reason INVALID_TOKENIZER.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.folder)
    except Exception as error:  # transformers raises many kinds for a bad file
        raise UnsupportedModelError(
            f"transformers cannot read the tokenizer of {files.name}: {error}",
            reason="INVALID_TOKENIZER",
        ) from error
    if not tokenizer.is_fast:
        raise UnsupportedModelError(
            f"{files.name} has no fast tokenizer (tokenizer.json)", reason="INVALID_TOKENIZER"
        )
    return tokenizer


def describe_tokenizer(tokenizer: Any, module: PreTrainedModel) -> ModelTokenizer:
    """Return what the services need of a tokenizer and of the model's ends of text."""
    tokenizer_json = _tokenizer_json(tokenizer)
    return ModelTokenizer(
        tokenizer_hash=tokenizer_hash(tokenizer_json),
        eos_token_ids=_eos_token_ids(module, tokenizer),
        tokenizer_json=tokenizer_json,
        chat_template=_chat_template(tokenizer),
        special_tokens=_special_tokens(tokenizer),
        adds_bos=_adds_bos(tokenizer),
    )


def _tokenizer_json(tokenizer: Any) -> str:
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    text: str = backend.to_str()
    return text


def _eos_token_ids(module: PreTrainedModel, tokenizer: Any) -> frozenset[int]:
    """Return all ids that end a text: of generation, of the model, of the tokenizer."""
    found: set[int] = set()
    for owner in (module.generation_config, module.config, tokenizer):
        token_ids = getattr(owner, "eos_token_id", None)
        found.update([token_ids] if isinstance(token_ids, int) else token_ids or ())
    return frozenset(found)


def _chat_template(tokenizer: Any) -> str:
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return template or ""


def _special_tokens(tokenizer: Any) -> dict[str, str]:
    named = tokenizer.special_tokens_map
    return {key: str(token) for key, token in named.items() if not isinstance(token, list)}


def _adds_bos(tokenizer: Any) -> bool:
    """Return whether the tokenizer itself would begin a text with its first token."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a").input_ids[:1] == [bos]
