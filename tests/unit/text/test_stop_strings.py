from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from treedraft.text.stop_strings import StopStringScanner

texts = st.text(alphabet="abc", max_size=30)
stops = st.lists(st.text(alphabet="abc", min_size=1, max_size=4), min_size=1, max_size=3)


def scan(pieces, stop_strings):
    scanner = StopStringScanner(stop_strings)
    shown, completed = "", False
    for piece in pieces:
        text, completed = scanner.push(piece)
        shown += text
    return shown + ("" if completed else scanner.finish()), completed


def test_shows_neither_the_stop_string_nor_what_follows():
    assert scan(["Hello END", " of it"], ["END"]) == ("Hello ", True)


def test_keeps_back_a_beginning_and_gives_it_up_when_it_leads_nowhere():
    scanner = StopStringScanner(["</s>"])
    assert scanner.push("a<") == ("a", False)
    assert scanner.push("/") == ("", False)
    assert scanner.push("b") == ("</b", False)
    assert scanner.finish() == ""


def test_finish_returns_what_was_kept_back():
    scanner = StopStringScanner(["</s>"])
    scanner.push("a</s")
    assert scanner.finish() == "</s"


def test_swallows_everything_after_the_stop_string():
    scanner = StopStringScanner(["x"])
    assert scanner.push("ax") == ("a", True)
    assert scanner.push("more") == ("", True)
    assert scanner.finish() == ""


def test_of_strings_that_end_together_the_longest_is_cut():
    assert scan(["say: abc"], ["c", "abc"]) == ("say: ", True)


def test_text_passes_at_once_without_stop_strings():
    assert StopStringScanner([]).push("anything") == ("anything", False)


@given(text=texts, stop_strings=stops, cuts=st.sets(st.integers(0, 30)))
def test_equals_the_definition_however_the_text_is_cut(text, stop_strings, cuts):
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    ends = [
        (end, end - len(stop))
        for end in range(len(text) + 1)
        for stop in stop_strings
        if text[:end].endswith(stop)
    ]
    expected = (text[: min(ends)[1]], True) if ends else (text, False)
    assert scan(pieces, stop_strings) == expected


@given(text=texts, stop_strings=stops)
def test_never_keeps_back_more_than_could_become_a_stop_string(text, stop_strings):
    scanner = StopStringScanner(stop_strings)
    shown, completed = scanner.push(text)
    if not completed:
        kept = text[len(shown) :]
        assert not kept or any(stop.startswith(kept) and stop != kept for stop in stop_strings)
