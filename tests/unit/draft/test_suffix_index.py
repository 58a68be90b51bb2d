"""Earlier occurrences of a suffix: all of them are found, and nothing that is none."""

import sys
from array import array

from hypothesis import given
from hypothesis import strategies as st

from treedraft.draft.settings import LookupSettings
from treedraft.draft.suffix_index import SEPARATOR, SuffixIndex, find

SETTINGS = LookupSettings(min_suffix=2, max_suffix=6)
TEXTS = st.lists(st.integers(0, 2), max_size=40)


def index_of(token_ids, settings=SETTINGS, **options):
    index = SuffixIndex(settings, **options)
    index.extend(token_ids)
    return index


def match_length(text, place, suffix):
    length = 0
    while length < min(place, len(suffix)) and text[place - 1 - length] == suffix[-1 - length]:
        length += 1
    return length


@given(st.lists(TEXTS, min_size=1, max_size=3), TEXTS)
def test_every_place_with_a_match_is_found_with_its_length(texts, suffix):
    suffix = array("I", suffix[-6:])
    expected = [
        (text[place], length)
        for text in texts
        for place in range(len(text))
        if (length := match_length(text, place, suffix)) >= 2
    ]
    # Long ones, at least 3 tokens here, suffice where there are 4 of them.
    if sum(length >= 3 for _, length in expected) >= 4:
        expected = [(token, length) for token, length in expected if length >= 3]
    found = find([index_of(text) for text in texts], suffix, max_found=1000)
    assert sorted(found) == sorted(expected)


def test_long_matches_come_before_short_ones_and_the_latest_of_those_first():
    settings = LookupSettings(min_suffix=2, max_suffix=6, max_candidates=3)
    copied = [10, 11, 12, 13, 14]
    text = [*copied, 50, *[8, 13, 14, 60] * 20, 9, 13, 14, 70]
    found = find([index_of(text, settings)], array("I", copied), max_found=3)
    assert found == [(50, 5), (70, 2), (60, 2)]


def test_a_long_match_in_an_older_text_comes_before_short_ones_in_a_newer():
    newer, older = index_of([3, 4, 60] * 10), index_of([1, 2, 3, 4, 50])
    assert find([newer, older], array("I", [1, 2, 3, 4]), max_found=4)[0] == (50, 4)


def test_no_match_reaches_over_the_end_of_a_text_or_into_the_next():
    index = index_of([1, 2, SEPARATOR, 3, 4])
    assert find([index], array("I", [1, 2]), max_found=9) == []
    assert find([index], array("I", [2, 3]), max_found=9) == []


@given(st.lists(st.integers(0, 2**32 - 2), max_size=30, unique=True))
def test_what_collides_is_no_match(tokens):
    # Every run of tokens is new, whatever it hashes to.
    index = index_of(tokens)
    assert find([index], array("I", tokens[-6:]), max_found=99) == []


def test_memory_is_what_the_index_says_and_small():
    index = index_of(range(8192), expected_tokens=8192)
    arrays = [index.token_ids]
    for chains in (index._short, index._long):
        arrays += [chains._latest, chains._earlier]
    measured = sum(sys.getsizeof(numbers) for numbers in arrays)
    assert index.num_bytes <= measured <= 1.15 * index.num_bytes + 1024
    assert index.num_bytes <= 20 * 8192


def test_few_tokens_make_no_match_and_no_error():
    for suffix in ([], [1]):
        assert find([index_of([1, 1, 1])], array("I", suffix), max_found=9) == []
    assert find([index_of([])], array("I", [1, 2]), max_found=9) == []
