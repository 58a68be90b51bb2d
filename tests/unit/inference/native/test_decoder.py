"""The compiled decoder says what transformers' own forward says, whatever shares the pass."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.unit.inference.test_lean import MODELS
from tests.unit.inference.tiny_models import tiny_model
from tests.unit.inference.tiny_segments import (
    assert_same,
    chunk,
    logits_by_definition,
    tokens,
    tree_of,
    tree_pass,
)

from treedraft.core.growth import ROOT
from treedraft.inference.native.compiler import find_compiler, native_library
from treedraft.inference.native.decoder import (
    NativeLinear,
    WeightStorage,
    can_go_native,
    go_native,
    smallest_lossless_storage,
)
from treedraft.inference.runner import Runner

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")

NUM_SLOTS = 256
SCATTERED = np.random.default_rng(3).permutation(NUM_SLOTS)
TREE = tree_of([ROOT, 0, 1, 0, ROOT, 4, 2])


def native(model, storage=WeightStorage.FLOAT32):
    module = copy.deepcopy(model.module)
    decoder = go_native(module, native_library(), storage)
    return replace(model, module=module, native=decoder)


def runner_of(model, storage=WeightStorage.FLOAT32):
    return Runner(native(model, storage), model.pool(NUM_SLOTS))


@pytest.mark.parametrize("name", MODELS)
def test_prompts_and_trees_have_the_logits_of_the_modules_own_forward(name):
    model = MODELS[name]()
    runner = runner_of(model)
    text = tokens(30)
    parts = [
        runner.forward([chunk(text, SCATTERED, a, b, [b - a - 1])]) for a, b in [(0, 17), (17, 29)]
    ]
    assert_same(torch.cat(parts), model.causal_logits(text)[[16, 28]])
    logits = runner.forward([tree_pass(text, SCATTERED, TREE)])
    assert_same(logits, logits_by_definition(model, text, TREE))


@pytest.mark.parametrize("storage", WeightStorage)
@pytest.mark.parametrize("num_threads", [1, 3])
def test_a_row_is_the_same_to_the_bit_whatever_shares_its_pass(storage, num_threads):
    model = tiny_model()
    text = tokens(40)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        together = runner_of(model, storage).forward([chunk(text, range(40), 0, 40)])
        alone = runner_of(model, storage)
        other = chunk(tokens(9, seed=5), SCATTERED[100:], 0, 9)
        for i in range(40):  # one token a pass, in other slots, beside another session
            logits = alone.forward([other, chunk(text, SCATTERED, i, i + 1)])
            assert torch.equal(logits[-1], together[i])
    finally:
        torch.set_num_threads(before)


def test_a_drafted_path_has_the_very_logits_of_plain_decoding():
    model = tiny_model()
    text = tokens(25)
    path = [text[-1], *(TREE.token_ids[i] for i in (0, 1, 2))]
    plain, drafted = runner_of(model), runner_of(model)
    for runner in (plain, drafted):
        runner.forward([chunk(text, SCATTERED, 0, 24, [])])
    tree = drafted.forward([tree_pass(text, SCATTERED, TREE)])[[0, 1, 2, 3]]
    whole = text[:-1] + path
    steps = [plain.forward([chunk(whole, SCATTERED, i, i + 1)]) for i in range(24, 28)]
    assert torch.equal(tree, torch.cat(steps))


def test_rounded_weights_stay_near():
    model = tiny_model()
    text = tokens(40)
    logits = runner_of(model, WeightStorage.BFLOAT16).forward([chunk(text, SCATTERED, 0, 40)])
    expected = model.causal_logits(text)
    assert not torch.equal(logits, expected)
    assert (logits - expected).abs().mean() < 0.02 * expected.abs().mean()


def rounded_to_groups(numbers):
    """Return numbers that were int8 for a while, 32 neighbours at one scale."""
    groups = torch.nn.functional.pad(numbers, (0, -numbers.shape[-1] % 32)).unflatten(-1, (-1, 32))
    scales = groups.abs().amax(-1, keepdim=True) / 127
    rounded = (groups / scales.clamp_min(1e-30)).round() * scales
    return rounded.flatten(-2)[..., : numbers.shape[-1]]


def test_int8_is_the_arithmetic_of_rounded_weights_and_rounded_inputs():
    model = tiny_model()
    text = tokens(40)
    logits = runner_of(model, WeightStorage.INT8).forward([chunk(text, SCATTERED, 0, 40)])
    exact = model.causal_logits(text)
    copied = replace(model, eager=copy.deepcopy(model.eager))
    for layer in copied.eager.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight = torch.nn.Parameter(rounded_to_groups(layer.weight.detach()))
            layer.register_forward_pre_hook(lambda _, inputs: (rounded_to_groups(inputs[0]),))
    expected = copied.causal_logits(text)
    # Up to inputs that lie between two steps and fall to another side now and then.
    assert (logits - expected).abs().mean() < 0.005 * expected.abs().mean()
    assert (logits - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_weights_that_are_bfloat16_lose_nothing_in_it():
    model = copy.deepcopy(tiny_model())
    assert smallest_lossless_storage(model.module) is WeightStorage.FLOAT32
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
    assert smallest_lossless_storage(model.module) is WeightStorage.BFLOAT16
    text = tokens(30)
    small, large = (
        runner_of(model, storage).forward([chunk(text, SCATTERED, 0, 30)])
        for storage in (WeightStorage.BFLOAT16, WeightStorage.FLOAT32)
    )
    assert torch.equal(small, large)


def test_keys_and_values_go_into_their_slots_and_nowhere_else():
    model = tiny_model()
    pool = model.pool(NUM_SLOTS)
    Runner(native(model), pool).forward([chunk(tokens(5), SCATTERED, 0, 5)])
    written = sorted(SCATTERED[:5].tolist())
    for stored in (pool.keys, pool.values):
        assert stored.abs().sum((0, 2, 3)).nonzero().flatten().tolist() == written


def test_a_pass_without_outputs_writes_keys_all_the_same():
    model = tiny_model()
    pool = model.pool(NUM_SLOTS)
    logits = Runner(native(model), pool).forward([chunk(tokens(5), SCATTERED, 0, 5, [])])
    assert logits.shape == (0, 97)
    assert pool.keys.abs().sum() > 0


@pytest.mark.parametrize(
    ("storage", "num_bytes"),
    [(WeightStorage.FLOAT32, 4.0), (WeightStorage.BFLOAT16, 2.0), (WeightStorage.INT8, 1.125)],
)
def test_all_weights_can_be_read(storage, num_bytes):
    model = tiny_model()
    linears = [m for m in model.module.modules() if isinstance(m, torch.nn.Linear)]
    count = sum(linear.weight.numel() for linear in linears)
    read = native(model, storage).native.read_weights()
    assert num_bytes * count <= read < 2 * num_bytes * count  # whole panels, whole groups


def test_longer_texts_than_the_table_of_turns_covers():
    model = tiny_model()
    decoder = native(model).native
    table = decoder._turns
    before = table.cos[:5].clone()
    table.cover(len(table.cos) + 1)
    cos, _ = model.module.model.rotary_emb(torch.empty(0), torch.arange(len(table.cos))[None])
    assert torch.equal(table.cos, cos[0])
    assert torch.equal(table.cos[:5], before)


def test_models_whose_turns_depend_on_the_text_are_none_for_the_library():
    module = copy.deepcopy(tiny_model().module)
    assert can_go_native(module)
    module.model.rotary_emb.rope_type = "dynamic"
    assert not can_go_native(module)


def test_the_module_keeps_no_linear_layer():
    module = native(tiny_model()).module
    kinds = [type(layer) for layer in module.modules()]
    assert kinds.count(NativeLinear) == 2 * 7 + 1
    assert torch.nn.Linear not in kinds
