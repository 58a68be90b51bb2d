from datetime import datetime

import pytest
from tests.unit.text.tool_models import TEMPLATES
from transformers.utils.chat_template_utils import render_jinja_template

from treedraft.core.errors import InvalidRequestError
from treedraft.core.generation import ChatMessage
from treedraft.core.tools import Tool, ToolCall
from treedraft.text.chat_template import knows_tool_calls, knows_tools, render_chat

MESSAGES = [
    ChatMessage("system", "Be brief."),
    ChatMessage("user", "What is <b>1 & 2</b>?"),
    ChatMessage("assistant", 'It\'s "3".'),
    ChatMessage("user", "Größe? 🦊"),
]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WITH_BLOCKS = """{{ bos_token }}
  {%- for message in messages %}
    {% if message.role == "system" %}
    [{{ message.content | trim }}]
    {% continue %}
    {% endif %}
    {% generation %}{{ message | tojson }}{% endgeneration %}
  {% endfor %}
{% if tools is none and not documents %}no tools{% endif %}{{ eos_token }}"""


@pytest.mark.parametrize("template", [SMOLLM2, WITH_BLOCKS])
@pytest.mark.parametrize("messages", [MESSAGES, MESSAGES[1:2]])
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_equals_transformers(template, messages, add_generation_prompt):
    expected, _ = render_jinja_template(
        conversations=[[{"role": m.role, "content": m.content} for m in messages]],
        chat_template=template,
        add_generation_prompt=add_generation_prompt,
        **SPECIAL,
    )
    assert render_chat(template, messages, SPECIAL, add_generation_prompt) == expected[0]


TOOLS = [
    Tool("look", "Looks.", '{"type": "object", "properties": {"at": {"type": "string"}}}'),
    Tool("wait"),
]
CALLED = [
    ChatMessage("user", "Look!"),
    ChatMessage("assistant", "", (ToolCall("c1", "look", '{"at": "Größe"}'),)),
    ChatMessage("tool", "nothing", tool_call_id="c1", name="look"),
    ChatMessage("assistant", "", (ToolCall("c2", "wait", ""), ToolCall("c3", "look", "{brok"))),
]
AS_DICTS = [
    {"role": "user", "content": "Look!"},
    {"role": "assistant", "content": "", "tool_calls": [("c1", "look", {"at": "Größe"})]},
    {"role": "tool", "content": "nothing", "tool_call_id": "c1", "name": "look"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [("c2", "wait", {}), ("c3", "look", "{brok")],
    },
]
OFFERED = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Looks.",
            "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
        },
    },
    {
        "type": "function",
        "function": {
            "name": "wait",
            "description": "",
            "parameters": {"type": "object", "properties": {}},
        },
    },
]
WITH_TOOLS = """{%- if tools is not none %}{%- for tool in tools %}{{ tool | tojson }}
{% endfor %}{%- endif %}{% for message in messages %}{{ message | tojson }}{% endfor %}"""


@pytest.mark.parametrize("template", [WITH_TOOLS, *TEMPLATES.values()])
def test_tools_and_calls_are_told_as_transformers_tells_them(template):
    messages = [dict(message) for message in AS_DICTS]
    for message in messages:
        if "tool_calls" in message:
            message["tool_calls"] = [
                {"id": i, "type": "function", "function": {"name": name, "arguments": arguments}}
                for i, name, arguments in message["tool_calls"]
            ]
    expected, _ = render_jinja_template(
        conversations=[messages], chat_template=template, tools=OFFERED, **SPECIAL
    )
    assert render_chat(template, CALLED, SPECIAL, False, tools=TOOLS) == expected[0]


def test_a_result_bears_the_name_of_what_was_called():
    template = "{% for m in messages %}{{ m.role }}={{ m.name }};{% endfor %}"
    unnamed = ChatMessage("tool", "nothing", tool_call_id="c1")
    stray = ChatMessage("tool", "nothing", tool_call_id="c9")
    told = render_chat(template, [*CALLED[:2], unnamed, stray], {})
    assert told == "user=;assistant=;tool=look;tool=;"


def test_templates_know_tools_or_do_not():
    assert knows_tools(WITH_TOOLS)
    assert knows_tools("{% if not tools is defined %}{% set tools = none %}{% endif %}{{ tools }}")
    for template in (SMOLLM2, "{% set tools = 1 %}{{ tools }}", "tools", "", "{% for"):
        assert not knows_tools(template)
    assert knows_tool_calls(TEMPLATES["hermes"])
    assert not knows_tool_calls(SMOLLM2)


def test_the_date_comes_from_the_given_clock():
    text = render_chat(
        "{{ strftime_now('%Y-%m-%d') }}", MESSAGES, {}, now=lambda: datetime(2026, 1, 2)
    )
    assert text == "2026-01-02"


@pytest.mark.parametrize(
    "template",
    [
        "",
        "{% for message in",
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[0].nothing.more }}",
        "{{ 1 / 0 }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].content.format.__globals__.sys }}",
        "{% for _ in range(10000000) %}{% endfor %}",
    ],
)
def test_failures_and_attacks_end_in_one_clear_error(template):
    with pytest.raises(InvalidRequestError) as caught:
        render_chat(template, MESSAGES, SPECIAL)
    assert caught.value.reason == "CHAT_TEMPLATE_FAILED"
    assert caught.value.field == "conversation"


def test_the_words_of_the_template_reach_the_caller():
    with pytest.raises(InvalidRequestError, match="roles must alternate"):
        render_chat("{{ raise_exception('roles must alternate') }}", MESSAGES, {})
