"""Draws of the coupled rule: the best of logits over temperature plus Gumbel noise.

The noise is that of `core.noise`, made on the spot by the same integer arithmetic:
Philox4x32-10 (Salmon et al. 2011), keyed by the seed, counting token pairs, position,
domain and choice. Scores are float64, the lowest id wins among equals.
"""

import triton
import triton.language as tl

_MASK32: tl.constexpr = tl.constexpr(0xFFFFFFFF)
_MULTIPLIER_0: tl.constexpr = tl.constexpr(0xD2511F53)
_MULTIPLIER_1: tl.constexpr = tl.constexpr(0xCD9E8D57)
_WEYL_0: tl.constexpr = tl.constexpr(0x9E3779B9)
_WEYL_1: tl.constexpr = tl.constexpr(0xBB67AE85)
_NO_TOKEN: tl.constexpr = tl.constexpr(0x7FFFFFFF)


@triton.jit
def _gumbel(bits):
    uniform = (bits | 1).to(tl.float64) * (2.0**-53)
    return -tl.log(-tl.log(uniform))


@triton.jit
def _noise_of_pairs(pairs, seed_low, seed_high, position, choice):
    c0 = pairs
    c1 = (pairs * 0) + (position & _MASK32)
    c2 = pairs * 0  # the domain of coupled draws
    c3 = (pairs * 0) + choice
    k0 = seed_low
    k1 = seed_high
    for _ in tl.static_range(10):
        product0 = c0 * _MULTIPLIER_0
        product1 = c2 * _MULTIPLIER_1
        c0 = ((product1 >> 32) & _MASK32) ^ c1 ^ k0
        c2 = ((product0 >> 32) & _MASK32) ^ c3 ^ k1
        c1 = product1 & _MASK32
        c3 = product0 & _MASK32
        k0 = (k0 + _WEYL_0) & _MASK32
        k1 = (k1 + _WEYL_1) & _MASK32
    return _gumbel((c0 << 21) | (c1 >> 11)), _gumbel((c2 << 21) | (c3 >> 11))


@triton.jit
def draw_parts(
    logits,  # float32 [rows, VOCAB]
    row_stride,
    laws,  # int64 [rows, 5]: low and high word of the seed, position, choice, and the
    # bits of a float32 that logits are divided by; 0 takes the best logit
    best_scores,  # float64 [rows, NUM_PARTS]
    best_tokens,  # int32 [rows, NUM_PARTS]
    VOCAB: tl.constexpr,
    BLOCK: tl.constexpr,  # pairs of tokens
    NUM_PARTS: tl.constexpr,
):
    """Find the best token of each part of the vocabulary."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    pairs = part * BLOCK + tl.arange(0, BLOCK)
    even = 2 * pairs
    odd = even + 1
    law = laws + row * 5
    temperature = tl.load(law + 4).to(tl.int32).to(tl.float32, bitcast=True)
    own = logits + row * row_stride
    lowest = float("-inf")
    even_logits = tl.load(own + even, mask=even < VOCAB, other=lowest)
    odd_logits = tl.load(own + odd, mask=odd < VOCAB, other=lowest)
    if temperature > 0:
        even_noise, odd_noise = _noise_of_pairs(
            pairs.to(tl.int64),
            tl.load(law),
            tl.load(law + 1),
            tl.load(law + 2),
            tl.load(law + 3),
        )
        divisors = tl.zeros([BLOCK], tl.float32) + temperature
        even_scores = tl.div_rn(even_logits, divisors).to(tl.float64)
        odd_scores = tl.div_rn(odd_logits, divisors).to(tl.float64)
        even_scores += even_noise
        odd_scores += odd_noise
    else:
        even_scores = even_logits.to(tl.float64)
        odd_scores = odd_logits.to(tl.float64)
    best = tl.maximum(tl.max(even_scores, 0), tl.max(odd_scores, 0))
    first_even = tl.min(tl.where(even_scores == best, even, _NO_TOKEN), 0)
    first_odd = tl.min(tl.where(odd_scores == best, odd, _NO_TOKEN), 0)
    tl.store(best_scores + row * NUM_PARTS + part, best)
    tl.store(best_tokens + row * NUM_PARTS + part, tl.minimum(first_even, first_odd))


@triton.jit
def draw_best(
    best_scores,
    best_tokens,
    tokens,  # int64 [rows]
    NUM_PARTS: tl.constexpr,
    PADDED_PARTS: tl.constexpr,
):
    """Find the best token of each row."""
    row = tl.program_id(0).to(tl.int64)
    parts = tl.arange(0, PADDED_PARTS)
    is_real = parts < NUM_PARTS
    scores = tl.load(best_scores + row * NUM_PARTS + parts, mask=is_real, other=float("-inf"))
    found = tl.load(best_tokens + row * NUM_PARTS + parts, mask=is_real, other=_NO_TOKEN)
    best = tl.max(scores, 0)
    tl.store(tokens + row, tl.min(tl.where(scores == best, found, _NO_TOKEN), 0).to(tl.int64))
