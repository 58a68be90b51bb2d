"""Looking at places of a tree leaves no trace: masks are those of a state that never looked."""

import json
import random

import numpy as np
from tests.unit.coordinator.support import EOS, toy_tokenizer_json
from tokenizers import AddedToken
from tokenizers import Tokenizer as BpeTokenizer
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from treedraft.core.tools import Tool, ToolChoice, ToolOffer
from treedraft.text.grammar import GrammarFactory
from treedraft.text.tokenizer import Tokenizer
from treedraft.text.tool_formats.formats import FORMATS

CITY = {"city": {"type": "string"}}
UNIT = {"unit": {"enum": ["celsius", "fahrenheit"]}}


def tool(name: str, properties: dict) -> Tool:
    schema = {"properties": properties, "required": [*properties], "additionalProperties": False}
    return Tool(name, "", json.dumps(schema), is_strict=name == "get_time")


OFFER = ToolOffer(
    (tool("get_weather", {**CITY, **UNIT}), tool("get_time", CITY)), ToolChoice.REQUIRED
)
WRITTEN = (
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}}'
    "\n</tool_call>"
)
OTHER = '<tool_call>\n{"name": "get_time", "arguments": {"city": "Paris"}}\n</tool_call>'


def long_tokens_json() -> str:
    """Return a tokenizer whose tokens cross the parts of JSON, as models' tokens do."""
    tokenizer = BpeTokenizer.from_str(toy_tokenizer_json())
    texts = [WRITTEN, OTHER, '"}', '",', '.",', ' ",', ':",', ')",']
    trainer = BpeTrainer(
        vocab_size=420,
        special_tokens=[AddedToken(EOS, special=True)],
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts * 8, trainer)
    return tokenizer.to_str()


def test_masks_do_not_depend_on_what_was_looked_at_before():
    source = long_tokens_json()
    tokenizer = Tokenizer.from_json(source)
    factory = GrammarFactory(source, tokenizer.vocab_size, [tokenizer.token_to_id(EOS)])
    grammar = FORMATS["hermes"].grammar(OFFER, tokenizer.token_to_id, "", None)
    text, other = tokenizer.encode(WRITTEN), tokenizer.encode(OTHER)
    rng = random.Random(3)
    for _ in range(200):
        looked, fresh = factory.start(grammar), factory.start(grammar)
        at = 0
        while at < len(text):
            for _ in range(rng.randint(1, 8)):
                base = text if rng.random() < 0.5 or text[:at] != other[:at] else other
                path = base[at : at + rng.randint(0, 16)]
                if rng.random() < 0.4:
                    path = path[: rng.randint(0, len(path))] + rng.choices(text, k=2)
                for length in range(len(path) + 1):
                    looked.allowed_after(path[:length])
            masks = looked.allowed_after(()), fresh.allowed_after(())
            assert np.array_equal(*masks), tokenizer.decode(text[:at])
            step = text[at : at + rng.randint(1, 6)]
            looked.commit(step)
            fresh.commit(step)
            at += len(step)
            assert not looked.problem
