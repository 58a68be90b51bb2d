"""Shown text is dealt out to its tokens, and all pieces together are the text."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.coordinator.support import encode, toy_tokenizer_json

from treedraft.coordinator.pieces import TextPieces, TokenReader
from treedraft.coordinator.text_output import TextOutput
from treedraft.core.growth import TokenSource
from treedraft.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.from_json(toy_tokenizer_json())
SOURCES = tuple(TokenSource)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=24)


def dealt(token_ids, cuts, stop=()):
    """Show tokens in chunks as a relay does; return the text shown and its pieces."""
    output, pieces, shown, dealt_out = TextOutput(TOKENIZER, stop), TextPieces(TOKENIZER), "", []
    places = [0, *sorted(min(cut, len(token_ids)) for cut in cuts), len(token_ids)]
    for first, end in pairwise(places):
        sources = [SOURCES[index % 3] for index in range(first, end)]
        text = output.push(token_ids[first:end])
        if end == len(token_ids) and end == places[-1] and first != end:
            text += output.finish()
        shown += text
        dealt_out += pieces.push(token_ids[first:end], sources, text)
    return shown, dealt_out


@given(texts, st.lists(st.integers(0, 40), max_size=4))
def test_all_pieces_together_are_the_text(text, cuts):
    shown, pieces = dealt(encode(text), cuts)
    assert "".join(piece.text for piece in pieces) == shown
    assert [piece.index for piece in pieces] == sorted(piece.index for piece in pieces)
    assert all(piece.source is SOURCES[piece.index % 3] for piece in pieces)


@given(texts, st.lists(st.integers(0, 40), max_size=4))
def test_a_stop_string_is_no_piece(text, cuts):
    shown, pieces = dealt(encode(text + "STOP" + text), cuts, stop=("STOP",))
    assert "".join(piece.text for piece in pieces) == shown
    assert "STOP" not in shown


def test_a_character_of_several_tokens_is_the_last_ones():
    token_ids = encode("aé")
    pieces = TextPieces(TOKENIZER)
    sources = [TokenSource.TARGET, TokenSource.LOOKUP, TokenSource.DRAFT_MODEL]
    shown = pieces.push(token_ids, sources, "aé")
    assert [(piece.index, piece.text) for piece in shown] == [(0, "a"), (2, "é")]


def test_a_broken_character_at_the_end_is_shown():
    token_ids = encode("é")[:1]
    shown, pieces = dealt(token_ids, [])
    assert shown == "\N{REPLACEMENT CHARACTER}"
    assert [piece.text for piece in pieces] == [shown]


def test_tokens_are_read_one_by_one():
    reader = TokenReader(TOKENIZER)
    hello, world = encode("hi")
    assert reader.read(world, hello) == "i"
    assert reader.read(256, hello) == "<|im_end|>"
    first, second = encode("é")
    assert reader.read(first, hello) != ""
    assert reader.read(second, first) != ""
