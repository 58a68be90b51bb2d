import pytest
import torch

from treedraft.inference.drafter_storage import GROUP, as_stored, restore, store

NAME = "model.layers.0.mlp.up_proj.weight"
NUMBERS, SCALES = "model.layers.0.mlp.up_proj.int8", "model.layers.0.mlp.up_proj.scale"


def matrix(rows=6, width=2 * GROUP):
    values = torch.randn(rows, width, generator=torch.Generator().manual_seed(0))
    return values * torch.logspace(-3, 3, rows)[:, None]


@pytest.mark.parametrize(("width", "groups"), [(2 * GROUP, 2), (GROUP, 1), (40, 1)])
def test_a_matrix_in_int8_is_right_to_half_a_step_of_each_group(width, groups):
    exact = matrix(width=width)
    stored = store({NAME: exact}, "int8")
    assert stored[NUMBERS].dtype == torch.int8
    assert stored[SCALES].shape == (6, groups)
    steps = stored[SCALES].repeat_interleave(width // groups, dim=1)
    assert ((restore(stored)[NAME] - exact).abs() <= 0.501 * steps).all()


def test_vectors_and_all_of_a_bfloat16_drafter_stay_as_they_are():
    weights = {NAME: matrix(), "model.norm.weight": torch.randn(8)}
    for kind, names in (("int8", {NUMBERS, SCALES}), ("bfloat16", {NAME})):
        stored = store(weights, kind)
        assert set(stored) == {*names, "model.norm.weight"}
        assert torch.equal(stored["model.norm.weight"], weights["model.norm.weight"].bfloat16())


@pytest.mark.parametrize("kind", ["int8", "bfloat16"])
def test_what_will_be_read_is_known_before(kind):
    for name, tensor in ((NAME, matrix()), ("model.norm.weight", torch.randn(8))):
        read = restore(store({name: tensor}, kind))[name]
        assert torch.equal(as_stored(name, tensor, kind), read.float())


def test_rounding_what_was_rounded_keeps_its_numbers():
    once = store({NAME: matrix(rows=200)}, "int8")
    twice = store(restore(once), "int8")
    assert torch.equal(once[NUMBERS], twice[NUMBERS])
    torch.testing.assert_close(once[SCALES], twice[SCALES], rtol=1e-6, atol=0)


def test_one_scale_a_row_is_read_too():
    numbers, scales = torch.ones(3, 8, dtype=torch.int8), torch.tensor([1.0, 2.0, 0.5])
    read = restore({NUMBERS: numbers, SCALES: scales})[NAME]
    assert torch.equal(read, scales[:, None].expand(3, 8))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.pop(SCALES), "no scales"),
        (lambda s: s.update({NUMBERS: s[NUMBERS].float()}), "not int8"),
        (lambda s: s.update({NUMBERS: s[NUMBERS][0]}), "1 dimensions"),
        (lambda s: s.update({SCALES: s[SCALES].int()}), "scales that are torch.int32"),
        (lambda s: s.update({SCALES: s[SCALES][:2]}), "do not match"),
        (lambda s: s.update({SCALES: torch.ones(6, 3)}), "do not match"),
        (lambda s: s.update({SCALES: torch.ones(6, 0)}), "do not match"),
        (lambda s: s[SCALES].fill_(float("nan")), "not finite"),
        (lambda s: s[SCALES].fill_(float("inf")), "not finite"),
        (lambda s: s[SCALES].neg_(), "negative"),
        (lambda s: s.update({NAME: matrix()}), "twice"),
    ],
)
def test_numbers_and_scales_that_do_not_fit_are_refused(edit, message):
    stored = store({NAME: matrix()}, "int8")
    edit(stored)
    with pytest.raises(ValueError, match=message):
        restore(stored)
