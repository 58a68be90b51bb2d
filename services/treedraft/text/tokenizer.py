"""A model's tokenizer, and text from tokens one at a time.

The target sends its tokenizer as the JSON text of the tokenizers library; the
coordinator and the services build it from there, so that all of them encode
and decode alike. Special tokens are put into a prompt by the chat template or
by the caller, never silently by `encode`.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

from treedraft.core.errors import UnsupportedModelError
from treedraft.text.token_bytes import TokenBytes

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# A character has at most 4 bytes, so this many tokens without a whole one are no text.
_MAX_PENDING_TOKENS = 64


class Tokenizer:
    """Encodes and decodes as the model was trained to."""

    def __init__(self, fast_tokenizer: FastTokenizer) -> None:
        """Wrap a tokenizer, with its padding and truncation switched off."""
        fast_tokenizer.no_padding()
        fast_tokenizer.no_truncation()
        self._fast = fast_tokenizer

    @classmethod
    def from_json(cls, tokenizer_json: str) -> "Tokenizer":
        """Build a tokenizer from the text of a `tokenizer.json`.

        Raises:
            UnsupportedModelError: reason INVALID_TOKENIZER.
        """
        try:
            return cls(FastTokenizer.from_str(tokenizer_json))
        except Exception as error:  # the library raises bare Exceptions
            raise UnsupportedModelError(
                f"the tokenizer cannot be read: {error}", reason="INVALID_TOKENIZER"
            ) from error

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included; a model may have more rows than that."""
        return self._fast.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text; nothing is put around it.

        Special tokens that are written out in the text become their ids.
        """
        return self._fast.encode(text, add_special_tokens=False).ids

    def decode(self, token_ids: Sequence[int], skip_special: bool = True) -> str:
        """Return the text of token ids; ids without a token add nothing."""
        return self._fast.decode(list(token_ids), skip_special_tokens=skip_special)

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a token given as the vocabulary writes it."""
        return self._fast.token_to_id(token)

    @cached_property
    def token_bytes(self) -> TokenBytes:
        """What single tokens stand for."""
        return TokenBytes(self._fast.id_to_token, self._fast.to_str())

    def stream(self, *, skip_special: bool = True) -> "TextStream":
        """Return a decoder that takes one token at a time."""
        return TextStream(self, skip_special=skip_special)


class TextStream:
    """Decodes a text that grows token by token, and never shows half a character.

    All pieces together are what `decode` makes of all tokens at once. How a
    token reads may depend on those before it (a leading space, the bytes of
    one character), so each one is decoded together with the last tokens that
    made whole characters, and what the reader has already is cut off.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        """Start with no token."""
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._shown_ids: list[int] = []  # context: the last tokens that were shown
        self._shown_text = ""  # what they read on their own
        self._pending_ids: list[int] = []  # tokens whose text is not whole yet

    def push(self, token_id: int) -> str:
        """Take a token and return the text that became certain with it."""
        self._pending_ids.append(token_id)
        new_text = self._pending_text()
        is_open = not new_text or new_text.endswith(_REPLACEMENT)
        if is_open and len(self._pending_ids) < _MAX_PENDING_TOKENS:
            return ""
        return self._show(new_text)

    def finish(self) -> str:
        """Return what was kept back; a broken character reads as U+FFFD."""
        return self._show(self._pending_text())

    def _pending_text(self) -> str:
        return self._decode(self._shown_ids + self._pending_ids)[len(self._shown_text) :]

    def _show(self, new_text: str) -> str:
        if new_text:
            self._shown_ids = self._pending_ids
            self._shown_text = self._decode(self._shown_ids)
        self._pending_ids = []
        return new_text

    def _decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(token_ids, self._skip_special)


def tokenizer_hash(tokenizer_json: str) -> str:
    """Return a hash that is equal for tokenizers whose ids mean the same.

    Covers the string of every id, added and special tokens among them, and the
    merges. Spelling and order of the JSON, padding, truncation, templates and
    flags do not count: they change which ids a text gets, never what an id
    means, and only ids pass between a target and its drafters.

    Raises:
        UnsupportedModelError: reason INVALID_TOKENIZER.
    """
    try:
        document = json.loads(tokenizer_json)
        model = document["model"]
        id_of = _vocabulary(model["vocab"])
        id_of.update({token["content"]: token["id"] for token in document["added_tokens"]})
        merges = [_merge_pair(merge) for merge in model.get("merges") or ()]
        essence = {"tokens": sorted(id_of.items(), key=lambda item: item[1]), "merges": merges}
    except (KeyError, TypeError, ValueError, IndexError, RecursionError) as error:
        raise UnsupportedModelError(
            f"the tokenizer has no readable vocabulary: {error}", reason="INVALID_TOKENIZER"
        ) from error
    canonical = json.dumps(essence, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _vocabulary(vocab: Any) -> dict[str, int]:
    if isinstance(vocab, dict):  # BPE, WordPiece: string to id
        return {str(token): int(token_id) for token, token_id in vocab.items()}
    return {str(token): index for index, (token, _score) in enumerate(vocab)}  # Unigram


def _merge_pair(merge: str | Sequence[str]) -> list[str]:
    # Written as "left right" by older versions of the library, as a pair since.
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return [left, right]
