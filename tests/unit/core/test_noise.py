import numpy as np
import pytest
import torch
from scipy import stats

from treedraft.core.noise import Domain, gumbel, philox4x32, to_gumbel, to_uniform, uniform
from treedraft.core.noise import uniform_bits as bits_of

# Known answers of philox4x32_10 from the Random123 distribution (kat_vectors).
KNOWN_ANSWERS = [
    (
        (0, 0, 0, 0),
        (0, 0),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(counter, key, expected):
    in_numpy = philox4x32(tuple(np.array([word]) for word in counter), key)
    in_torch = philox4x32(tuple(torch.tensor([word]) for word in counter), key)
    assert tuple(int(word[0]) for word in in_numpy) == expected
    assert tuple(int(word[0]) for word in in_torch) == expected


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**63 + 12345, 2**64 - 1])
def test_numpy_and_torch_agree_to_the_bit(seed):
    pairs = np.arange(3000)
    positions = np.array([0, 7, 2**31, 2**32 - 1])[:, None]
    options = {"seed": seed, "domain": Domain.ACCEPTANCE, "choice": 3}
    in_numpy = bits_of(pairs[None], positions, **options)
    in_torch = bits_of(torch.from_numpy(pairs)[None], torch.from_numpy(positions), **options)
    for ours, theirs in zip(in_numpy, in_torch, strict=True):
        assert np.array_equal(ours, theirs.numpy())
        assert ours.min() >= 0
        assert ours.max() < 2**53


def test_noise_of_a_token_does_not_depend_on_what_is_asked_with_it():
    ids = np.array([5, 0, 4, 49151, 5])
    together = gumbel(ids, np.array([3, 3, 9, 9, 3]), seed=11)
    alone = [
        gumbel(np.array([i]), np.array([p]), seed=11)[0]
        for i, p in zip(ids, (3, 3, 9, 9, 3), strict=True)
    ]
    assert together.tolist() == alone
    assert together[0] == together[4]


def test_extreme_bits_stay_inside_the_open_interval():
    extremes = to_uniform(np.array([0, 2**53 - 1]))
    assert extremes[0] > 0.0
    assert extremes[1] < 1.0
    assert np.isfinite(to_gumbel(extremes)).all()
    assert to_gumbel(extremes)[1] > 36.0  # a float32 uniform would stop at 17


@pytest.mark.parametrize("change", ["seed", "position", "domain", "choice"])
def test_every_part_of_the_key_changes_the_noise(change):
    base = {"seed": 4, "domain": Domain.COUPLED_DRAW, "choice": 0}
    position = 10
    other = dict(base)
    if change == "seed":
        other["seed"] = 4 + 2**32
    elif change == "position":
        position = 11
    elif change == "domain":
        other["domain"] = Domain.DRAFT_SAMPLING
    else:
        other["choice"] = 1
    ids = np.arange(2000)
    first = uniform(ids, np.array([10]), **base)
    second = uniform(ids, np.array([position]), **other)
    assert not np.any(first == second)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.08


def test_noise_has_the_gumbel_distribution_along_tokens_and_along_positions():
    along_tokens = gumbel(np.arange(50_000), np.array([2]), seed=1)
    along_positions = gumbel(np.array([3]), np.arange(50_000), seed=1)
    assert stats.kstest(along_tokens, "gumbel_r").pvalue > 1e-3
    assert stats.kstest(along_positions, "gumbel_r").pvalue > 1e-3
    neighbours = np.corrcoef(along_tokens[::2], along_tokens[1::2])[0, 1]
    assert abs(neighbours) < 0.03
