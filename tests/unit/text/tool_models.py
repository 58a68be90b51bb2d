"""Toy models that call tools: chat templates in each format, and tokenizers with its markers."""

from tests.unit.coordinator.support import toy_tokenizer_json
from tokenizers import AddedToken, Tokenizer

_MESSAGES = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}"
    "{% for c in m.tool_calls or [] %}CALL{% endfor %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def _template(calls: str) -> str:
    offered = "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}"
    return offered + _MESSAGES.replace("CALL", calls)


TEMPLATES = {
    "hermes": _template(
        '<tool_call>{"name": "{{ c.function.name }}", '
        '"arguments": {{ c.function.arguments | tojson }}}</tool_call>'
    ),
    "llama3_json": '{# answer as {"name": function name, "parameters": them} #}'
    + _template('{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments }}'),
    "mistral": _template("[TOOL_CALLS][{{ c.function | tojson }}]"),
    "mistral_named": _template(
        "[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}"
    ),
}


def tokenizer_json(*, has_markers: bool) -> str:
    """Return the toy's tokenizer; with markers, they are tokens as models have them."""
    if not has_markers:
        return toy_tokenizer_json()
    tokenizer = Tokenizer.from_str(toy_tokenizer_json())
    tokenizer.add_tokens(["<tool_call>", "</tool_call>"])
    special = ("[TOOL_CALLS]", "[ARGS]", "<|python_tag|>")
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in special])
    return tokenizer.to_str()
