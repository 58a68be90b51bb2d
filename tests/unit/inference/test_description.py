import pytest

from treedraft.inference.description import describe
from treedraft.inference.models import load_model
from treedraft.inference.toy import make_toy_model


@pytest.fixture
def loaded(tmp_path):
    return load_model(make_toy_model(tmp_path / "toy"))


def test_a_description_says_all_that_a_coordinator_needs(loaded):
    description = describe(loaded, max_prompt_tokens=100, block_size=8)
    assert description.model == "toy"
    assert (description.max_prompt_tokens, description.block_size) == (100, 8)
    for name in (
        "fingerprint",
        "tokenizer_hash",
        "tokenizer_json",
        "vocab_size",
        "context_length",
        "eos_token_ids",
        "chat_template",
        "special_tokens",
        "adds_bos",
    ):
        assert getattr(description, name) == getattr(loaded, name)


def test_a_prompt_must_leave_room_for_an_answer(loaded):
    description = describe(loaded, max_prompt_tokens=10**6, block_size=16)
    assert description.max_prompt_tokens == loaded.context_length - 1
