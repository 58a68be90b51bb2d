"""Finds earlier occurrences of a suffix in a text that only grows.

Places with the same few tokens before them are chained, the latest first, as
compressors do it (the hash chains of LZ77, RFC 1951, section 4): a place costs a
few bytes, appending costs the same at any length, and nothing is ever moved.
There are two chains, one by a short run of tokens and one by a longer run, so
that a long match is found among any number of short ones.

A hash may be shared by runs that differ: every match is compared token by token.
"""

from array import array
from collections.abc import Sequence

from treedraft.draft.settings import LookupSettings

SEPARATOR = 2**32 - 1
"""Stands between texts of one index; no token has this id."""

_NOWHERE = -1
_MIN_HEADS = 256
# Of places in a chain so many times the candidates are visited: hashes collide.
_VISITS_PER_CANDIDATE = 2
# With so many long matches, short ones have nothing to add.
_ENOUGH_LONG = 4


class _Chains:
    """All places of a text by the hash of the `length` tokens before them."""

    def __init__(self, length: int, num_heads: int) -> None:
        self.length = length
        self._mask = num_heads - 1
        self._latest = array("i", [_NOWHERE]) * num_heads
        # By place: the place before it in its chain.
        self._earlier = array("i")

    @property
    def num_bytes(self) -> int:
        return 4 * (len(self._latest) + len(self._earlier))

    def append(self, text: "array[int]") -> None:
        """Chain the place after the text."""
        place = len(text)
        if place < self.length:
            self._earlier.append(_NOWHERE)
            return
        head = hash(tuple(text[-self.length :])) & self._mask
        self._earlier.append(self._latest[head])
        self._latest[head] = place

    def search(
        self, text: "array[int]", suffix: "array[int]", *, too_long: int, max_found: int
    ) -> list[tuple[int, int]]:
        """Return what follows matches of at least `length` tokens and below `too_long`."""
        found: list[tuple[int, int]] = []
        longest = min(len(suffix), too_long)
        place = self._latest[hash(tuple(suffix[-self.length :])) & self._mask]
        for _ in range(_VISITS_PER_CANDIDATE * max_found):
            if place == _NOWHERE or len(found) == max_found:
                break
            length = _match_length(text, place, suffix, longest)
            if self.length <= length < too_long and text[place] != SEPARATOR:
                found.append((text[place], length))
            place = self._earlier[place]
        return found


class SuffixIndex:
    """A text, and where in it a suffix occurred before."""

    def __init__(self, settings: LookupSettings, *, expected_tokens: int = 0) -> None:
        """Start with an empty text.

        Args:
            settings: lengths of matches.
            expected_tokens: how long the text is going to be; a longer one is
                searched less thoroughly.
        """
        shortest = min(settings.min_suffix, settings.max_suffix)
        num_heads = max(_MIN_HEADS, 1 << max(0, expected_tokens - 1).bit_length())
        self.token_ids = array("I")
        self._max_length = settings.max_suffix
        self._short = _Chains(shortest, num_heads)
        self._long = _Chains(max(shortest + 1, settings.max_suffix // 2), num_heads)

    def __len__(self) -> int:
        """Return the length of the text in tokens."""
        return len(self.token_ids)

    @property
    def num_bytes(self) -> int:
        """Memory of the text and its chains."""
        return 4 * len(self.token_ids) + self._short.num_bytes + self._long.num_bytes

    def append(self, token_id: int) -> None:
        """Add a token, or SEPARATOR, to the end of the text."""
        self._short.append(self.token_ids)
        self._long.append(self.token_ids)
        self.token_ids.append(token_id)

    def extend(self, token_ids: Sequence[int]) -> None:
        """Add tokens to the end of the text."""
        for token_id in token_ids:
            self.append(token_id)

    def search(
        self, suffix: "array[int]", *, is_long: bool, max_found: int
    ) -> list[tuple[int, int]]:
        """Return what followed a suffix as (token, length of the match), the latest first.

        Args:
            suffix: the last `max_suffix` tokens, fewer if there are no more.
            is_long: look for matches as long as the longer run, or for shorter ones.
            max_found: pairs to return, at most.
        """
        chains = self._long if is_long else self._short
        if len(suffix) < chains.length:
            return []
        too_long = self._max_length + 1 if is_long else self._long.length
        return chains.search(self.token_ids, suffix, too_long=too_long, max_found=max_found)


def find(
    indexes: Sequence[SuffixIndex], suffix: "array[int]", *, max_found: int
) -> list[tuple[int, int]]:
    """Return what followed a suffix in several texts as (token, length of the match).

    Long matches in any of the texts come before short ones, which are left out
    where there are long ones enough.

    Args:
        indexes: the latest first.
        suffix: the last `max_suffix` tokens, fewer if there are no more.
        max_found: pairs to return, at most.
    """
    found: list[tuple[int, int]] = []
    for is_long in (True, False):
        for index in indexes:
            if len(found) < max_found:
                room = max_found - len(found)
                found.extend(index.search(suffix, is_long=is_long, max_found=room))
        if len(found) >= _ENOUGH_LONG:
            break
    return found


def _match_length(text: "array[int]", place: int, suffix: "array[int]", longest: int) -> int:
    """Return how many tokens before a place equal those at the end of the suffix."""
    longest = min(place, longest)
    length = 0
    while length < longest and text[place - length - 1] == suffix[-length - 1]:
        length += 1
    return length
