"""What a target says of its model, and all that a coordinator needs of it."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """A served model: name, numeric identity, tokenizer, limits."""

    model: str
    fingerprint: str
    tokenizer_hash: str
    vocab_size: int
    context_length: int
    max_prompt_tokens: int
    eos_token_ids: frozenset[int]
    tokenizer_json: str
    chat_template: str = ""
    special_tokens: dict[str, str] = field(default_factory=dict)
    block_size: int = 16
    adds_bos: bool = False
