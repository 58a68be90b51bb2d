from treedraft.cli.origin import STYLES, painted
from treedraft.core.generation import Delta
from treedraft.core.growth import TokenSource

MODEL, LOOKUP, TARGET = TokenSource.DRAFT_MODEL, TokenSource.LOOKUP, TokenSource.TARGET


def styles(text):
    """The style of each character."""
    shown = [""] * len(text.plain)
    for span in text.spans:
        shown[span.start : span.end] = [span.style] * (span.end - span.start)
    return shown


def test_each_character_has_the_colour_of_its_token():
    delta = Delta(0, (1, 2, 3), (MODEL, LOOKUP, TARGET), "abcd", (), (MODEL, MODEL, LOOKUP, TARGET))
    text = painted(delta)
    assert text.plain == "abcd"
    assert styles(text) == [STYLES[MODEL], STYLES[MODEL], STYLES[LOOKUP], STYLES[TARGET]]


def test_without_marks_all_has_the_colour_of_most_that_was_drafted():
    assert painted(Delta(0, (1, 2, 3), (LOOKUP, LOOKUP, TARGET), "ab")).style == STYLES[LOOKUP]
    assert painted(Delta(0, (1,), (TARGET,), "ab")).style == STYLES[TARGET]
    assert painted(Delta(0, (), (), "")).plain == ""
