"""Says of a loaded model what a coordinator needs to know."""

from treedraft.core.model_description import ModelDescription
from treedraft.inference.models import LoadedModel


def describe(loaded: LoadedModel, *, max_prompt_tokens: int, block_size: int) -> ModelDescription:
    """Return the description of a served model.

    Args:
        loaded: the model.
        max_prompt_tokens: what the KV pool can hold; the context, less one
            token to answer with, limits it further.
        block_size: tokens in a page of KV.
    """
    return ModelDescription(
        model=loaded.name,
        fingerprint=loaded.fingerprint,
        tokenizer_hash=loaded.tokenizer_hash,
        vocab_size=loaded.vocab_size,
        context_length=loaded.context_length,
        max_prompt_tokens=min(max_prompt_tokens, loaded.context_length - 1),
        eos_token_ids=loaded.eos_token_ids,
        tokenizer_json=loaded.tokenizer_json,
        chat_template=loaded.chat_template,
        special_tokens=dict(loaded.special_tokens),
        block_size=block_size,
        adds_bos=loaded.adds_bos,
    )
