import math

import pytest

from treedraft.core.errors import InvalidRequestError
from treedraft.core.rollout import PairingCounts, Pool, WeightChange


def test_a_pool_is_written_as_it_is_read():
    pool = Pool.parse("draft/new.v2")
    assert (pool.role, pool.name, str(pool)) == ("draft", "new.v2", "draft/new.v2")
    assert Pool.parse("target/").name == ""


@pytest.mark.parametrize("text", ["", "v2", "targets/v2", "/v2"])
def test_what_is_no_pool_is_refused(text):
    with pytest.raises(InvalidRequestError) as caught:
        Pool.parse(text)
    assert caught.value.reason == "INVALID_POOL"


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_what_is_no_share_is_refused(weight):
    with pytest.raises(InvalidRequestError) as caught:
        WeightChange(Pool("target", "v2"), weight)
    assert caught.value.reason == "INVALID_WEIGHT"


def test_counts_add_up_and_say_what_was_accepted():
    counts = PairingCounts(1, 0, 4, 10, 30, 20, 5) + PairingCounts(1, 1, 4, 2, 0, 0, 1)
    assert counts == PairingCounts(2, 1, 8, 12, 30, 20, 6)
    assert counts.acceptance == 0.3
    assert counts.tokens_per_round == 1.5
    assert (PairingCounts().acceptance, PairingCounts().tokens_per_round) == (0.0, 0.0)
