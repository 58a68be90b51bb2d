"""Mistral: `[TOOL_CALLS]` before a JSON list of calls, or before each `NAME[ARGS]{…}`."""

import base64
import re
from collections.abc import Sequence

from treedraft.core.grammar import Grammar
from treedraft.core.tools import ToolOffer
from treedraft.text.tool_formats.calls_grammar import (
    CallFrame,
    TokenIds,
    calls_grammar,
    free_until,
    json_head,
    literal,
    marker,
)
from treedraft.text.tool_formats.format import ToolFormat
from treedraft.text.tool_formats.heads import BEFORE_OBJECT, JSON_HEAD, Part, name, prefixes, words
from treedraft.text.tool_formats.reader import CallReader, Opening, open_length

_MARKERS = ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")

_OPENING, _ARGUMENTS, _CALL_ID = _MARKERS

_ID_CHARS = "[A-Za-z0-9]{0,32}"

# Some versions tell an id between name and arguments.
_ID_PART = Part(
    re.compile(rf"(?:{re.escape(_CALL_ID)}{_ID_CHARS})?"),
    re.compile(rf"(?:{prefixes(_CALL_ID)}|{re.escape(_CALL_ID)}{_ID_CHARS})"),
)
_NAMED_HEAD = (name(), _ID_PART, words(_ARGUMENTS, is_optional=True), BEFORE_OBJECT)
_ID_LENGTH = 9  # the templates insist


def _is_spoken_by(template: str) -> bool:
    """Return whether a chat template has its model write calls like this."""
    return _OPENING in template


class MistralReader(CallReader):
    """Reads calls of both ways to write them."""

    separator = ","
    terminator = "]"

    def _look(self) -> Opening | int:
        start = self._buffer.find(_OPENING)
        if start < 0:
            return len(self._buffer) - open_length(self._buffer, _OPENING)
        end = start + len(_OPENING)
        rest = self._buffer[end:].lstrip()
        if not rest and not self._is_final:
            return start
        has_list = rest.startswith("[")
        return Opening(start, len(self._buffer) - len(rest) + 1 if has_list else end)

    def _parts(self) -> Sequence[Part]:
        begun = self._buffer.lstrip()[:1]
        return _NAMED_HEAD if begun not in ("", "{") else JSON_HEAD


def _call_id(digest: bytes) -> str:
    """Return the id of a call, made of what only this call has."""
    return base64.b32encode(digest).decode()[:_ID_LENGTH]


def _grammar(
    offer: ToolOffer, token_ids: TokenIds, template: str, content: Grammar | None = None
) -> Grammar:
    """Return the grammar of the answers to an offer."""
    opening = marker(_OPENING, token_ids)
    lead, rules = free_until(_OPENING, re.escape(_OPENING), token_ids)
    if _ARGUMENTS in template:
        arguments = marker(_ARGUMENTS, token_ids)
        frame = CallFrame(
            opening=opening,
            between=opening,
            closing="",
            before_arguments=lambda name: f"{literal(name)} {arguments}",
            after_arguments="",
            lead=lead,
            rules=rules,
        )
    else:
        frame = CallFrame(
            opening=f'{opening} "["',
            between='", "',
            closing='"]"',
            before_arguments=json_head("arguments"),
            after_arguments='"}"',
            lead=f'{lead} "["',
            rules=rules,
        )
    return calls_grammar(offer, frame, content)


MISTRAL = ToolFormat("mistral", _MARKERS, _is_spoken_by, MistralReader, _grammar, _call_id)
