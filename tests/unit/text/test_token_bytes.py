"""Tokens as bytes, in both alphabets that tokenizers write them in."""

from tests.unit.coordinator.support import encode, toy_tokenizer_json
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models

from treedraft.text.tokenizer import Tokenizer


def test_letters_of_a_byte_alphabet_are_bytes():
    words = Tokenizer.from_json(toy_tokenizer_json()).token_bytes
    for text in ("a", "ö", "€", " \n"):
        assert b"".join(map(words.bytes_of, encode(text))) == text.encode()
    assert words.bytes_of(256) == b"<|im_end|>"
    assert words.bytes_of(99999) == b""


def test_marks_for_spaces_and_bytes_are_read():
    vocabulary = {"▁hello": 0, "<0xE2>": 1, "o": 2}
    fast = FastTokenizer(models.WordLevel(vocabulary, unk_token="o"))
    fast.decoder = decoders.Metaspace()
    words = Tokenizer.from_json(fast.to_str()).token_bytes
    assert [words.bytes_of(i) for i in range(3)] == [b" hello", b"\xe2", b"o"]
