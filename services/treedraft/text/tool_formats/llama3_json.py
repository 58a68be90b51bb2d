"""Llama 3: an answer that is nothing but `{"name": …, "parameters": {…}}`, several with `;`."""

from collections.abc import Callable, Collection
from dataclasses import replace

from treedraft.core.errors import InvalidRequestError
from treedraft.core.grammar import Grammar
from treedraft.core.tools import TOOLS_CONFLICT, ToolOffer
from treedraft.text.tool_formats.calls_grammar import CallFrame, TokenIds, calls_grammar, json_head
from treedraft.text.tool_formats.format import ToolFormat
from treedraft.text.tool_formats.reader import CallReader, Opening

_MARKERS = ("<|python_tag|>",)

(_PYTHON_TAG,) = _MARKERS

# Some templates refuse a conversation in which more than one call was made at once.
_ONE_CALL = "only supports single tool-calls"


def _is_spoken_by(template: str) -> bool:
    """Return whether a chat template has its model write calls like this."""
    return '"parameters":' in template and '{"name": function name' in template


class Llama3Reader(CallReader):
    """Reads calls at the beginning of a text."""

    separator = ";"

    def __init__(self, names: Collection[str], new_id: Callable[[int], str]) -> None:
        """Begin a text."""
        super().__init__(names, new_id)
        self._is_prose = False  # content has come, and calls do not follow it

    def _look(self) -> Opening | int:
        text = self._buffer.lstrip()
        start = len(self._buffer) - len(text)
        if not self._is_prose:
            if text.startswith(_PYTHON_TAG):
                return Opening(start, start + len(_PYTHON_TAG))
            if text.startswith("{"):
                return Opening(start, start)
            if _PYTHON_TAG.startswith(text):
                return 0
            self._is_prose = True
        return len(self._buffer)

    def _refused(self) -> None:
        self._is_prose = True


def _grammar(
    offer: ToolOffer, token_ids: TokenIds, template: str, content: Grammar | None = None
) -> Grammar:
    """Return the grammar of the answers to an offer."""
    if content is not None and not offer.is_forced:
        # Nothing marks a call: an answer in JSON would be taken for one, and the other way round.
        raise InvalidRequestError(
            "this model's tool calls cannot be told from an answer in JSON",
            field="grammar",
            reason=TOOLS_CONFLICT,
        )
    if _ONE_CALL in template:
        offer = replace(offer, is_parallel=False)
    frame = CallFrame(
        opening="",
        between='"; "',
        closing="",
        before_arguments=json_head("parameters"),
        after_arguments='"}"',
        lead="",
        rules=r"FREE: /(\s*[^\s{](.|\n)*)?/",
    )
    return calls_grammar(offer, frame, content)


LLAMA3_JSON = ToolFormat("llama3_json", _MARKERS, _is_spoken_by, Llama3Reader, _grammar)
