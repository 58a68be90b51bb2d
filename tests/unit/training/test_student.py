import pytest
import torch
from training_toys import toy_target

from treedraft.core.errors import InvalidRequestError, UnsupportedModelError
from treedraft.training.student import check_head, choose_layers, last_hidden, make_student
from treedraft.training.teaching import causally_attending


@pytest.mark.parametrize(
    ("choice", "depth", "expected"),
    [
        ("first", 4, (0, 1, 2, 3)),
        ("even", 4, (0, 10, 19, 29)),
        ("ends", 3, (0, 1, 29)),
        ("0,5,29", 3, (0, 5, 29)),
        ("even", 1, (0,)),
    ],
)
def test_choice_of_layers(choice, depth, expected):
    assert choose_layers(choice, depth, 30) == expected


@pytest.mark.parametrize(("choice", "depth"), [("best", 2), ("3,1", 2), ("0,30", 2), ("first", 31)])
def test_layers_that_do_not_exist_are_refused(choice, depth):
    with pytest.raises(InvalidRequestError) as caught:
        choose_layers(choice, depth, 30)
    assert caught.value.reason == "INVALID_LAYERS"


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_student_of_all_layers_is_the_target_on_its_columns(tmp_path, architecture):
    target = toy_target(tmp_path, architecture=architecture).module
    columns = (1, 5, 300)
    tokens = torch.tensor([[3, 9, 27, 81, 243]])
    expected = target(tokens, use_cache=False).logits[..., list(columns)]
    student = make_student(target, (0, 1, 2), columns)
    torch.testing.assert_close(student(tokens, use_cache=False).logits, expected)
    embedding = target.get_input_embeddings().weight
    assert student.get_input_embeddings().weight.data_ptr() == embedding.data_ptr()
    frozen = [name for name, p in student.named_parameters() if not p.requires_grad]
    assert frozen == ["model.embed_tokens.weight"]


def test_our_causal_attention_sees_what_the_models_own_sees(tmp_path):
    target = toy_target(tmp_path).module
    tokens = torch.randint(3, 500, (2, 12))
    expected = target.base_model(tokens, use_cache=False).last_hidden_state
    with causally_attending(target):
        torch.testing.assert_close(last_hidden(target, tokens), expected)
        padded = torch.cat([tokens, torch.zeros(2, 4, dtype=torch.long)], dim=1)
        torch.testing.assert_close(last_hidden(target, padded)[:, :12], expected)
    assert target.config._attn_implementation == "sdpa"


def test_logits_that_are_more_than_a_head_are_refused(tmp_path):
    target = toy_target(tmp_path).module
    check_head(target)
    forward = target.forward

    def capped(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = torch.tanh(output.logits)
        return output

    target.forward = capped
    with pytest.raises(UnsupportedModelError) as caught:
        check_head(target)
    assert caught.value.reason == "UNSUPPORTED_HEAD"
