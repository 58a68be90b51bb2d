import pytest
from tests.unit.coordinator.support import EOS, describe_toy, encode, toy_tokenizer_json

from treedraft.coordinator.prompts import encode_prompt
from treedraft.core.errors import InvalidRequestError
from treedraft.core.generation import ChatMessage, GenerateQuery
from treedraft.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.from_json(toy_tokenizer_json())


async def prompt_of(query, **model):
    return list(await encode_prompt(query, describe_toy(**model), TOKENIZER))


async def reason_of(query, **model):
    with pytest.raises(InvalidRequestError) as caught:
        await prompt_of(query, **model)
    return caught.value.reason


async def test_tokens_are_taken_as_they_are():
    assert await prompt_of(GenerateQuery(token_ids=(5, 999))) == [5, 999]


async def test_text_is_encoded_and_begun_as_the_model_wants_it():
    assert await prompt_of(GenerateQuery(text="héllo")) == encode("héllo")
    assert await prompt_of(GenerateQuery(text="hi"), adds_bos=True) == encode(EOS + "hi")


async def test_empty_text_stays_empty():
    assert await prompt_of(GenerateQuery(text="")) == []
    assert await prompt_of(GenerateQuery(text=""), adds_bos=True) == []


async def test_long_text_is_encoded_alike():
    text = "long text " * 1000
    assert await prompt_of(GenerateQuery(text=text)) == encode(text)


async def test_a_conversation_goes_through_the_template():
    query = GenerateQuery(conversation=(ChatMessage("user", "hi"),))
    assert await prompt_of(query) == encode("user:hi\nassistant:")


async def test_what_cannot_be_a_prompt_is_refused_with_a_reason():
    message = (ChatMessage("user", "hi"),)
    assert await reason_of(GenerateQuery()) == "INVALID_INPUT"
    assert await reason_of(GenerateQuery(text="a", token_ids=(1,))) == "INVALID_INPUT"
    assert await reason_of(GenerateQuery(conversation=())) == "EMPTY_PROMPT"
    assert await reason_of(GenerateQuery(conversation=message), chat_template="") == (
        "NO_CHAT_TEMPLATE"
    )
    refusing = "{{ raise_exception('roles') }}"
    assert await reason_of(GenerateQuery(conversation=message), chat_template=refusing) == (
        "CHAT_TEMPLATE_FAILED"
    )
