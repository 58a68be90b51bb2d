"""Position-keyed noise: the same on every machine, device and number of rows.

`Philox4x32-10` (Salmon et al. 2011, "Parallel random numbers: as easy as
1, 2, 3") maps a counter to 128 random bits with integer arithmetic alone. We
key it by the seed and count by (token pair, position, domain, choice), so the
noise of a token at a position depends on nothing that speculation, batching or
fail-over could change. Target and drafter compute it apart and agree to the
bit; this is what couples them without communication (Daliri, Musco, Suresh
2024, arXiv 2408.07978).

Every function takes arrays of signed 64-bit integers and uses operators only,
so that numpy arrays and torch tensors of any device run the very same code.
"""

from enum import IntEnum
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

_MASK32 = 0xFFFFFFFF
_MULTIPLIER_0 = 0xD2511F53
_MULTIPLIER_1 = 0xCD9E8D57
_WEYL_0 = 0x9E3779B9
_WEYL_1 = 0xBB67AE85
_NUM_ROUNDS = 10


class Domain(IntEnum):
    """Separates the uses of one seed, so that no two of them share a number."""

    COUPLED_DRAW = 0
    DRAFT_SAMPLING = 1
    ACCEPTANCE = 2
    RESIDUAL_DRAW = 3


class IntegerArray(Protocol):
    """What the generator needs of an array of signed 64-bit integers."""

    def __mul__(self, other: Any, /) -> Self: ...  # noqa: D105
    def __add__(self, other: Any, /) -> Self: ...  # noqa: D105
    def __and__(self, other: Any, /) -> Self: ...  # noqa: D105
    def __or__(self, other: Any, /) -> Self: ...  # noqa: D105
    def __xor__(self, other: Any, /) -> Self: ...  # noqa: D105
    def __rshift__(self, other: Any, /) -> Self: ...  # noqa: D105
    def __lshift__(self, other: Any, /) -> Self: ...  # noqa: D105


Array = TypeVar("Array", bound=IntegerArray)


def _multiply(word: Array, multiplier: int) -> tuple[Array, Array]:
    # The 64-bit product wraps into the sign bit; its bits are right all the
    # same, and the mask undoes the sign extension of the shift.
    product = word * multiplier
    return (product >> 32) & _MASK32, product & _MASK32


def philox4x32(
    counter: tuple[Array, Array, Array, Array], key: tuple[int, int]
) -> tuple[Array, Array, Array, Array]:
    """Return 4 words of 32 random bits for each counter.

    Args:
        counter: four arrays of one shape with values in [0, 2**32).
        key: two words in [0, 2**32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_NUM_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIER_0)
        high1, low1 = _multiply(c2, _MULTIPLIER_1)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 = (k0 + _WEYL_0) & _MASK32
        k1 = (k1 + _WEYL_1) & _MASK32
    return c0, c1, c2, c3


def uniform_bits(
    pairs: Array, positions: Array, *, seed: int, domain: Domain, choice: int | Array = 0
) -> tuple[Array, Array]:
    """Return 53 random bits each for tokens `2 * pair` and `2 * pair + 1`.

    One block of the generator serves two neighbouring tokens, which halves the
    cost of noise over a whole vocabulary.

    Args:
        pairs: token id divided by two, any shape.
        positions: index that the drawn token will occupy, broadcastable to `pairs`.
        seed: unsigned 64-bit key.
        domain: what the noise is for.
        choice: which of several answers to one prompt this is, in [0, 2**32).
    """
    zero = positions & 0
    words = philox4x32(
        (pairs, positions & _MASK32, zero + int(domain), zero + choice),
        (seed & _MASK32, seed >> 32),
    )
    even = (words[0] << 21) | (words[1] >> 11)
    odd = (words[2] << 21) | (words[3] >> 11)
    return even, odd


def uniform(
    token_ids: npt.NDArray[np.int64],
    positions: npt.NDArray[np.int64],
    *,
    seed: int,
    domain: Domain,
    choice: int | npt.NDArray[np.int64] = 0,
) -> npt.NDArray[np.float64]:
    """Return uniform numbers in the open interval (0, 1), one per (token, position)."""
    even, odd = uniform_bits(token_ids >> 1, positions, seed=seed, domain=domain, choice=choice)
    return to_uniform(np.where((token_ids & 1) == 0, even, odd))


def to_uniform(bits: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return 53 random bits as a number in the open interval (0, 1).

    Odd multiples of 2**-53 are exact in float64. Adding one half instead would
    round the largest of them to 1, whose Gumbel noise is infinite.
    """
    return (bits | 1).astype(np.float64) * 2.0**-53


def gumbel(
    token_ids: npt.NDArray[np.int64],
    positions: npt.NDArray[np.int64],
    *,
    seed: int,
    domain: Domain = Domain.COUPLED_DRAW,
    choice: int | npt.NDArray[np.int64] = 0,
) -> npt.NDArray[np.float64]:
    """Return standard Gumbel noise, one number per (token, position).

    In float64: a float32 uniform would cut the tail that decides rare draws.
    """
    return to_gumbel(uniform(token_ids, positions, seed=seed, domain=domain, choice=choice))


def to_gumbel(uniforms: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return standard Gumbel noise by inversion of its distribution function."""
    result: npt.NDArray[np.float64] = -np.log(-np.log(uniforms))
    return result
