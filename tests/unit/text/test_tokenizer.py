import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as FastTokenizer

from treedraft.core.errors import UnsupportedModelError
from treedraft.text.tokenizer import Tokenizer, tokenizer_hash

CORPUS = ["The quick brown fox jumps over the lazy dog.", "größer, 日本語, the fox the dog"]


def byte_level_json() -> str:
    fast = FastTokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[AddedToken("<|end|>", special=True)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    fast.train_from_iterator(CORPUS, trainer)
    return fast.to_str()


def sentencepiece_like_json() -> str:
    """As Llama 2's: a space before the first word, which decoding takes away again."""
    tokens = [f"<0x{byte:02X}>" for byte in range(256)] + ["▁", "a", "b", "▁a", "▁b"]
    vocab = {token: index for index, token in enumerate(tokens)}
    merges = [("▁", "a"), ("▁", "b")]
    fast = FastTokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True))
    fast.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    fast.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return fast.to_str()


JSON = byte_level_json()
TOKENIZER = Tokenizer.from_json(JSON)


def stream(tokenizer, token_ids):
    decoder = tokenizer.stream()
    return [decoder.push(token_id) for token_id in token_ids], decoder.finish()


def test_encode_puts_nothing_around_and_decode_returns_the_text():
    token_ids = TOKENIZER.encode("The größer fox 🦊")
    assert TOKENIZER.decode(token_ids) == "The größer fox 🦊"
    assert TOKENIZER.encode("") == []
    assert TOKENIZER.vocab_size == 300


def test_special_tokens_in_a_text_are_encoded_and_hidden_on_demand():
    end = TOKENIZER.token_to_id("<|end|>")
    token_ids = TOKENIZER.encode("fox<|end|>")
    assert token_ids[-1] == end
    assert TOKENIZER.decode(token_ids) == "fox"
    assert TOKENIZER.decode(token_ids, skip_special=False) == "fox<|end|>"
    assert TOKENIZER.token_to_id("no such token") is None


def test_padding_and_truncation_of_the_file_are_ignored():
    fast = FastTokenizer.from_str(JSON)
    fast.enable_truncation(2)
    fast.enable_padding(length=5)
    assert Tokenizer.from_json(fast.to_str()).encode("The quick") == TOKENIZER.encode("The quick")


@pytest.mark.parametrize("text", ["{}", "no json", '{"model": {}, "added_tokens": []}', "[1]"])
def test_a_broken_tokenizer_is_refused(text):
    with pytest.raises(UnsupportedModelError) as caught:
        Tokenizer.from_json(text)
    assert caught.value.reason == "INVALID_TOKENIZER"
    with pytest.raises(UnsupportedModelError):
        tokenizer_hash(text)


def test_the_stream_never_shows_half_a_character():
    token_ids = [TOKENIZER.encode("a")[0], *TOKENIZER.encode("🦊")]
    pieces, rest = stream(TOKENIZER, token_ids)
    assert len(token_ids) == 5
    assert pieces == ["a", "", "", "", "🦊"]
    assert rest == ""


def test_the_stream_shows_a_broken_character_at_the_end_only():
    pieces, rest = stream(TOKENIZER, TOKENIZER.encode("🦊")[:2])
    assert pieces == ["", ""]
    assert rest == "\N{REPLACEMENT CHARACTER}"


@given(st.lists(st.integers(0, 299), max_size=60))
def test_the_pieces_of_any_tokens_are_the_text_of_all(token_ids):
    pieces, rest = stream(TOKENIZER, token_ids)
    assert "".join(pieces) + rest == TOKENIZER.decode(token_ids)


@given(st.text(max_size=40))
def test_the_pieces_of_any_text_are_the_text(text):
    pieces, rest = stream(TOKENIZER, TOKENIZER.encode(text))
    assert "".join(pieces) + rest == text


@given(st.text(alphabet="ab 🦊é", max_size=20))
def test_leading_spaces_survive_where_decoding_strips_the_first(text):
    tokenizer = Tokenizer.from_json(sentencepiece_like_json())
    pieces, rest = stream(tokenizer, tokenizer.encode(text))
    assert "".join(pieces) + rest == text


def test_endless_garbage_is_shown_and_not_hoarded():
    lonely_byte = TOKENIZER.encode("🦊")[-1]
    decoder = TOKENIZER.stream()
    pieces = [decoder.push(lonely_byte) for _ in range(1000)]
    assert len("".join(pieces)) > 900


def test_the_hash_does_not_depend_on_spelling():
    document = json.loads(JSON)
    document["truncation"] = {"max_length": 7}
    document["model"]["vocab"] = dict(reversed(document["model"]["vocab"].items()))
    document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    reordered = dict(reversed(document.items()))
    assert tokenizer_hash(json.dumps(reordered, indent=3)) == tokenizer_hash(JSON)


def test_the_hash_knows_vocabulary_merges_and_added_tokens():
    def changed(change):
        document = json.loads(JSON)
        change(document)
        return tokenizer_hash(json.dumps(document))

    def swap_two_tokens(document):
        vocab = document["model"]["vocab"]
        vocab["a"], vocab["b"] = vocab["b"], vocab["a"]

    hashes = {
        tokenizer_hash(JSON),
        changed(swap_two_tokens),
        changed(lambda document: document["model"]["merges"].pop()),
        changed(lambda document: document["added_tokens"].append({"id": 300, "content": "<x>"})),
    }
    assert len(hashes) == 4


def test_the_hash_takes_unigram_vocabularies():
    fast = FastTokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    assert len(tokenizer_hash(fast.to_str())) == 64
