"""Formats of tool calls: read however the text is cut, and written as grammars."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.text.tool_models import TEMPLATES, tokenizer_json

from treedraft.core.errors import InvalidRequestError
from treedraft.core.grammar import Grammar, GrammarKind
from treedraft.core.tools import Tool, ToolChoice, ToolOffer
from treedraft.text.grammar import GrammarFactory, check_grammar
from treedraft.text.tokenizer import Tokenizer
from treedraft.text.tool_formats.formats import FORMATS, ToolFormats, format_of

WEATHER = Tool(
    "get_weather",
    "Says how the weather is.",
    json.dumps(
        {
            "type": "object",
            "properties": {
                "city": {"$ref": "#/$defs/city"},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["city"],
            "additionalProperties": False,
            "$defs": {"city": {"enum": ["Rome", "Zürich"]}},
        }
    ),
)
CLOCK = Tool("clock")
NAMES = frozenset({"get_weather", "clock"})
ARGUMENTS = '{"city": "Zürich", "days": 2}'
TRICKY = '{"city": "a \\"}</tool_call>]{ \\\\", "list": [1, {"x": "[TOOL_CALLS]"}]}'


def read(name: str, pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """Return content and calls (name, arguments) of a text that came in pieces."""
    reader = FORMATS[name].reader(NAMES, lambda index: f"id{index}")
    told = [*(reader.push(piece) for piece in pieces), reader.finish()]
    calls: dict[int, tuple[str, str]] = {}
    for _, parts in told:
        for part in parts:
            if part.call_id:
                assert part.index not in calls
                assert part.call_id == f"id{part.index}"
                calls[part.index] = (part.name, "")
            tool, arguments = calls[part.index]
            calls[part.index] = (tool, arguments + part.arguments)
    assert list(calls) == list(range(len(calls)))
    assert reader.has_calls == bool(calls)
    return "".join(content for content, _ in told), list(calls.values())


def told_of(name: str, pieces: list[str]) -> tuple[str, list[str]]:
    """Return what has been told of a text that goes on: content, and what calls consist of."""
    reader = FORMATS[name].reader(NAMES, str)
    told = [reader.push(piece) for piece in pieces]
    calls = [(part.index, part.name + part.arguments) for _, parts in told for part in parts]
    indices = sorted({index for index, _ in calls})
    words = ["".join(text for i, text in calls if i == index) for index in indices]
    return "".join(content for content, _ in told), words


def call(name: str, arguments: str, key: str = "arguments") -> str:
    return f'{{"name": "{name}", "{key}": {arguments}}}'


def hermes(*calls: str) -> str:
    return "\n".join(f"<tool_call>\n{one}\n</tool_call>" for one in calls)


ONE, TWO = call("get_weather", ARGUMENTS), call("clock", "{}")
READ = [("get_weather", ARGUMENTS), ("clock", "{}")]
REORDERED = f'{{"arguments": {ARGUMENTS}, "name": "get_weather"}}'
AS_TEXT = call("get_weather", json.dumps(ARGUMENTS))
WRAPPED = f'{{"type": "function", "function": {ONE}}}'

WELL_FORMED = [
    ("hermes", hermes(ONE), "", READ[:1]),
    ("hermes", f"\n{hermes(ONE, TWO)}\n", "", READ),
    ("hermes", f"Let me look.\n\n{hermes(ONE)}", "Let me look.", READ[:1]),
    ("hermes", f"{hermes(ONE)}\nDone. {hermes(TWO)}", "\nDone.", READ),
    ("hermes", hermes(call("get_weather", TRICKY)), "", [("get_weather", TRICKY)]),
    ("hermes", f"<tool_call>{ONE}", "", READ[:1]),
    ("hermes", hermes(REORDERED), "", READ[:1]),
    ("hermes", hermes(AS_TEXT), "", READ[:1]),
    ("hermes", hermes(WRAPPED), "", READ[:1]),
    ("hermes", "just text with < and {", "just text with < and {", []),
    ("hermes", " \n", " \n", []),
    ("llama3_json", call("get_weather", ARGUMENTS, "parameters"), "", READ[:1]),
    ("llama3_json", f"{ONE}; {TWO}", "", READ),
    ("llama3_json", f"\n<|python_tag|>{ONE};{TWO}\n", "", READ),
    ("llama3_json", WRAPPED, "", READ[:1]),
    ("llama3_json", f"I would say {ONE}", f"I would say {ONE}", []),
    ("llama3_json", '{"city": "Rome"} is it', '{"city": "Rome"} is it', []),
    ("mistral", f"[TOOL_CALLS] [{ONE}, {TWO}]", "", READ),
    ("mistral", f"[TOOL_CALLS][{ONE}]", "", READ[:1]),
    ("mistral", f"Well.[TOOL_CALLS]{ONE}", "Well.", READ[:1]),
    ("mistral", f"[TOOL_CALLS] [{REORDERED}, {TWO}]", "", READ),
    ("mistral", f"[TOOL_CALLS]get_weather[ARGS]{ARGUMENTS}[TOOL_CALLS]clock[ARGS]{{}}", "", READ),
    ("mistral", f"[TOOL_CALLS]get_weather{ARGUMENTS}", "", READ[:1]),
    ("mistral", f"[TOOL_CALLS]get_weather[CALL_ID]aB3[ARGS]{ARGUMENTS}", "", READ[:1]),
]
# No call was made of these: every character is content.
NO_CALLS = [
    ("hermes", "<tool_call>\n"),
    ("hermes", "<tool_call>\nnonsense\n</tool_call>"),
    ("hermes", hermes(call("unknown", "{}"))),
    ("hermes", hermes('{"name": "clock"}')),
    ("hermes", hermes("{'name': 'clock', 'arguments': {}}")),
    ("hermes", 'text <tool_call>{"name": "get_we'),
    ("hermes", hermes('{"arguments": {"a": 1}, "name": 7}')),
    ("hermes", hermes(f'{{"odd": 1, "function": {ONE}}}')),
    ("llama3_json", call("unknown", "{}", "parameters")),
    ("llama3_json", '<|python_tag|>brave.call(query="x")'),
    ("llama3_json", '{"name": "clock", "parameters": 5}'),
    ("llama3_json", '{"name": "cl'),
    ("mistral", "[TOOL_CALLS] none"),
    ("mistral", f"[TOOL_CALLS] [{call('unknown', '{}')}]"),
    ("mistral", "[TOOL_CALLS]get_weather[ARGS]nothing"),
]
# The head told of a call, then came what is no JSON: all of it is arguments.
BROKEN = [
    ("hermes", hermes(call("clock", "{'a': 1}")), "{'a': 1}}\n"),
    ("hermes", '<tool_call>{"name": "clock", "arguments": {"a": 1</tool_call>', '{"a": 1'),
    ("hermes", '<tool_call>{"name": "clock", "arguments": {"a": "x', '{"a": "x'),
    ("llama3_json", call("clock", "{<}", "parameters"), "{<}}"),
    ("mistral", "[TOOL_CALLS]clock[ARGS]{]", "{]"),
]
ALL_TEXTS = [
    *((name, text) for name, text, _, _ in WELL_FORMED),
    *NO_CALLS,
    *((name, text) for name, text, _ in BROKEN),
]


@pytest.mark.parametrize(("name", "text", "content", "calls"), WELL_FORMED)
def test_calls_are_told_from_content(name, text, content, calls):
    assert read(name, [text]) == (content, calls)


@pytest.mark.parametrize(("name", "text"), NO_CALLS)
def test_what_is_no_call_is_content_to_the_last_character(name, text):
    assert read(name, [text]) == (text, [])


@pytest.mark.parametrize(("name", "text", "arguments"), BROKEN)
def test_arguments_that_are_no_json_are_passed_on_as_they_are(name, text, arguments):
    content, calls = read(name, [text])
    assert (content, calls) == ("", [("clock", arguments)])


@pytest.mark.parametrize(("name", "text"), ALL_TEXTS)
@pytest.mark.parametrize("is_cut", [False, True])
def test_calls_are_counted_and_those_that_are_malformed(name, text, is_cut):
    reader = FORMATS[name].reader(NAMES, str)
    for piece in list(text) if is_cut else [text]:
        reader.push(piece)
    reader.finish()
    assert reader.num_calls == len(read(name, [text])[1])
    # What nothing marks as a call was none to begin with.
    is_marked = any(marker in text for marker in FORMATS[name].markers)
    is_malformed = (name, text) in [one[:2] for one in BROKEN]
    assert reader.num_malformed == (is_malformed or ((name, text) in NO_CALLS and is_marked))


@pytest.mark.parametrize(("name", "text"), ALL_TEXTS)
def test_how_a_text_is_cut_makes_no_difference(name, text):
    whole = read(name, [text])
    assert read(name, list(text)) == whole
    for cut in range(len(text)):
        assert read(name, [text[:cut], text[cut:]]) == whole


@given(data=st.data())
def test_texts_of_any_words_cut_anywhere_are_read_alike(data):
    name = data.draw(st.sampled_from(sorted(FORMATS)))
    words = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>"]
    words += [ONE, TWO, REORDERED, '{"name": "clock"', ', "arguments": ', "{", "}", '"', "\n", " "]
    words += ["[", "]", ";", ",", "clock", "\\", "text"]
    text = "".join(data.draw(st.lists(st.sampled_from(words), max_size=12)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]
    for end in cuts:  # a client that resumes has been told as much, whatever the cuts were
        assert told_of(name, [text[:end]]) == told_of(name, list(text[:end]))
    content, calls = read(name, pieces)
    assert (content, calls) == read(name, [text])
    if not calls:
        assert content == text


def test_arguments_are_told_as_they_come():
    reader = FORMATS["hermes"].reader(NAMES, str)
    assert reader.push('<tool_call>{"name": "clock", "argu') == ("", ())
    assert reader.push('ments": {"a": ')[1][0].arguments == '{"a": '
    assert reader.push('"b')[1][0].arguments == '"b'
    assert reader.push('"}}')[1][0].arguments == '"}'


def test_content_is_not_kept_back_for_long():
    for name in FORMATS:
        reader = FORMATS[name].reader(NAMES, str)
        assert reader.push("Hello {there <") == (
            ("Hello {there", ()) if name == "hermes" else ("Hello {there <", ())
        )


def test_a_format_is_known_by_its_template():
    for name, template in TEMPLATES.items():
        assert format_of(template).name == name.removesuffix("_named")
    assert format_of("{{ messages }}") is None
    assert format_of("<tool_call><function=name>") is None


def test_formats_can_be_named_for_models():
    formats = ToolFormats(["org/one=mistral", "*=hermes"])
    assert formats.find("org/one", TEMPLATES["hermes"]).name == "mistral"
    assert formats.find("two", "").name == "hermes"
    assert ToolFormats().find("two", TEMPLATES["llama3_json"]).name == "llama3_json"
    for wrong in ("one=klingon", "=hermes", "hermes", ""):
        with pytest.raises(ValueError, match="MODEL=FORMAT"):
            ToolFormats([wrong])


CHOICES = {
    "required": {"choice": ToolChoice.REQUIRED},
    "one": {"choice": ToolChoice.REQUIRED, "is_parallel": False},
    "named": {"choice": ToolChoice.REQUIRED, "name": "clock"},
    "free": {"is_parallel": False},
}


@pytest.fixture(scope="module", params=[False, True], ids=["words", "tokens"])
def vocabulary(request):
    source = tokenizer_json(has_markers=request.param)
    tokenizer = Tokenizer.from_json(source)
    return tokenizer, GrammarFactory(source, tokenizer.vocab_size, [256])


def allows(vocabulary, grammar, text: str) -> bool:
    """Return whether a grammar lets a text through, to its end."""
    tokenizer, factory = vocabulary
    state = factory.start(grammar)
    for token_id in tokenizer.encode(text):
        if not state.allows((), token_id):
            return False
        state.commit([token_id])
        assert not state.problem
    return state.allows((), 256)


def written(name: str, *calls: tuple[str, str]) -> str:
    if name == "mistral_named":
        return "".join(f"[TOOL_CALLS]{tool}[ARGS]{arguments}" for tool, arguments in calls)
    key = "parameters" if name == "llama3_json" else "arguments"
    told = [call(tool, arguments, key) for tool, arguments in calls]
    if name == "hermes":
        return hermes(*told)
    return "; ".join(told) if name == "llama3_json" else f"[TOOL_CALLS][{', '.join(told)}]"


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_grammar_holds_calls_to_their_schemas(vocabulary, name):
    template = TEMPLATES[name]

    def grammar_of(choice):
        offer = ToolOffer((WEATHER, CLOCK), **CHOICES[choice])
        grammar = format_of(template).grammar(offer, vocabulary[0].token_to_id, template, None)
        check_grammar(grammar)
        return grammar

    good, other = ("get_weather", ARGUMENTS), ("clock", "{}")
    wrong = ("get_weather", '{"city": "Oslo"}')
    required, one = grammar_of("required"), grammar_of("one")
    named, free = grammar_of("named"), grammar_of("free")
    for grammar, texts, is_let in (
        (required, [written(name, good), written(name, other, good, good)], True),
        (required, ["Hello", "", written(name, wrong), written(name, ("nothing", "{}"))], False),
        (required, [written(name, ("clock", '{"a": 1}'))], False),
        (one, [written(name, good), written(name, other)], True),
        (one, [written(name, good, other)], False),
        (named, [written(name, other)], True),
        (named, [written(name, good), written(name, other, other)], False),
        (free, ["", "Hello <tool", written(name, good), written(name, wrong)], True),
        (free, [written(name, good, other), written(name, ("nothing", "{}"))], False),
    ):
        for text in texts:
            assert allows(vocabulary, grammar, text) == is_let, text
    if name != "llama3_json":
        assert allows(vocabulary, free, f"Well. {written(name, good)}")


@pytest.mark.parametrize("name", TEMPLATES)
def test_strict_tools_are_held_to_their_schemas_where_calling_is_free(vocabulary, name):
    template = TEMPLATES[name]
    strict = Tool(WEATHER.name, WEATHER.description, WEATHER.parameters, is_strict=True)
    offer = ToolOffer((strict, CLOCK))
    grammar = format_of(template).grammar(offer, vocabulary[0].token_to_id, template, None)
    good, free = ("get_weather", ARGUMENTS), ("clock", '{"any": [1]}')
    assert allows(vocabulary, grammar, written(name, good, free))
    assert allows(vocabulary, grammar, "Hello")
    assert not allows(vocabulary, grammar, written(name, ("get_weather", '{"city": "Oslo"}')))


@pytest.mark.parametrize("name", ["hermes", "mistral", "mistral_named"])
def test_an_answer_without_calls_can_be_held_to_a_form(vocabulary, name):
    template = TEMPLATES[name]
    form = Grammar(GrammarKind.JSON_SCHEMA, json.dumps({"type": "object", "required": ["a"]}))
    grammar = format_of(template).grammar(
        ToolOffer((CLOCK,)), vocabulary[0].token_to_id, template, form
    )
    check_grammar(grammar)
    for text, is_let in (
        ('{"a": 1}', True),
        (written(name, ("clock", '{"b": 2}')), True),
        ('{"b": 1}', False),
        ("Hello", False),
        (f'{{"a": 1}}{written(name, ("clock", "{}"))}', False),
    ):
        assert allows(vocabulary, grammar, text) == is_let, text


def test_a_template_that_takes_one_call_at_once_is_given_one(vocabulary):
    offer = ToolOffer((CLOCK,), ToolChoice.REQUIRED)
    refusing = "raise_exception('This model only supports single tool-calls at once!')"
    for template, is_let in (("", True), (refusing, False)):
        grammar = FORMATS["llama3_json"].grammar(offer, lambda _: None, template, None)
        calls = written("llama3_json", ("clock", "{}"), ("clock", "{}"))
        assert allows(vocabulary, grammar, calls) == is_let


def test_calls_without_markers_are_not_mixed_with_a_form_of_json():
    form = Grammar(GrammarKind.JSON_SCHEMA, "{}")
    grammar = FORMATS["llama3_json"].grammar
    with pytest.raises(InvalidRequestError, match="JSON"):
        grammar(ToolOffer((CLOCK,)), lambda _: None, "", form)
    forced = ToolOffer((CLOCK,), ToolChoice.REQUIRED)
    assert grammar(forced, lambda _: None, "", form) == grammar(forced, lambda _: None, "", None)


def test_a_keyword_that_cannot_be_followed_is_passed_over_unless_it_is_strict():
    odd = json.dumps({"type": "object", "properties": {"a": {"not": {"type": "string"}}}})
    for is_strict in (False, True):
        offer = ToolOffer((Tool("odd", "", odd, is_strict),), ToolChoice.REQUIRED)
        template = TEMPLATES["hermes"]
        grammar = FORMATS["hermes"].grammar(offer, lambda _: None, template, None)
        if is_strict:
            with pytest.raises(InvalidRequestError, match="followed"):
                check_grammar(grammar)
        else:
            check_grammar(grammar)
