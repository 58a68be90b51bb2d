import pytest
import torch

from treedraft.bench.peers.protocol import PeerSetup, UnsupportedModeError
from treedraft.bench.peers.transformers_peer import TransformersPeer
from treedraft.inference.toy import make_toy_model

PROMPT = [5, 9, 6, 7, 5, 9, 6]


@pytest.fixture(autouse=True)
def _threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path):
    return str(make_toy_model(tmp_path / "toy", seed=3))


def test_every_mode_says_the_same(folder):
    peer = TransformersPeer(PeerSetup("transformers", "float32", 1, folder, drafter=folder))
    modes = ("plain", "static cache", "assisted", "prompt lookup")
    texts = {mode: peer.generate(mode, PROMPT, 12) for mode in modes}
    assert {len(text.token_ids) for text in texts.values()} == {12}
    assert len({tuple(text.token_ids) for text in texts.values()}) == 1
    assert texts["plain"].num_passes == 12


def test_a_perfect_draft_model_saves_passes(folder):
    peer = TransformersPeer(PeerSetup("transformers", "float32", 1, folder, drafter=folder))
    assert peer.generate("assisted", PROMPT, 24).num_passes < 24


def test_without_a_draft_model_there_is_no_assistance(folder):
    peer = TransformersPeer(PeerSetup("transformers", "bfloat16", 1, folder))
    with pytest.raises(UnsupportedModeError):
        peer.generate("assisted", PROMPT, 2)
