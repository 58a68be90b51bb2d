"""What a single token stands for, in bytes.

A token need not be text: it may hold a part of a character. Tokenizers write
such tokens in an alphabet of their own, of which there are two: one letter for
each byte (GPT-2), and `<0xE2>` beside a mark for spaces (SentencePiece).
"""

import json
import re
from collections.abc import Callable

_SPACE_MARK = "▁"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """Tokens of one vocabulary as bytes."""

    def __init__(self, id_to_token: Callable[[int], str | None], tokenizer_json: str) -> None:
        """Read tokens by this function; the tokenizer's JSON says in which alphabet they are."""
        document = json.loads(tokenizer_json)
        self._id_to_token = id_to_token
        self._added_ids = frozenset(item["id"] for item in document.get("added_tokens") or ())
        self._is_byte_level = '"ByteLevel"' in json.dumps(document.get("decoder"))

    def bytes_of(self, token_id: int) -> bytes:
        """Return the bytes of a token; none for an id without one."""
        token = self._id_to_token(token_id)
        if token is None:
            return b""
        if token_id in self._added_ids:
            return token.encode()
        if self._is_byte_level:
            letters = [_BYTE_OF_LETTER.get(letter) for letter in token]
            return bytes(byte for byte in letters if byte is not None)
        if match := _BYTE_TOKEN.fullmatch(token):
            return bytes([int(match[1], 16)])
        return token.replace(_SPACE_MARK, " ").encode()


def _letters() -> dict[str, int]:
    # Bytes that are printable stand for themselves, the others for letters from 256 on.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTE_OF_LETTER = _letters()
