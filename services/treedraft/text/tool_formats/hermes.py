"""Hermes and Qwen: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, line by line."""

from treedraft.core.grammar import Grammar
from treedraft.core.tools import ToolOffer
from treedraft.text.tool_formats.calls_grammar import (
    CallFrame,
    TokenIds,
    calls_grammar,
    free_until,
    json_head,
    marker,
)
from treedraft.text.tool_formats.format import ToolFormat
from treedraft.text.tool_formats.reader import CallReader, Opening, open_length

_MARKERS = ("<tool_call>", "</tool_call>")

_OPENING, _CLOSING = _MARKERS
_OTHER_SYNTAX = "<function="  # Qwen's coders write XML between the same markers


def _is_spoken_by(template: str) -> bool:
    """Return whether a chat template has its model write calls like this."""
    return _OPENING in template and _OTHER_SYNTAX not in template


class HermesReader(CallReader):
    """Reads calls between tags."""

    tail = ("}", _CLOSING)

    def _look(self) -> Opening | int:
        start = self._buffer.find(_OPENING)
        if start >= 0:
            return Opening(start, start + len(_OPENING))
        return len(self._buffer) - open_length(self._buffer, _OPENING)


def _grammar(
    offer: ToolOffer, token_ids: TokenIds, template: str, content: Grammar | None = None
) -> Grammar:
    """Return the grammar of the answers to an offer."""
    opening, closing = (marker(text, token_ids) for text in _MARKERS)
    lead, rules = free_until(_OPENING, _OPENING, token_ids)
    frame = CallFrame(
        opening=rf'{opening} "\n"',
        between=rf'"\n" {closing} "\n" {opening} "\n"',
        closing=rf'"\n" {closing}',
        before_arguments=json_head("arguments"),
        after_arguments='"}"',
        lead=rf'{lead} "\n"',
        rules=rules,
    )
    return calls_grammar(offer, frame, content)


HERMES = ToolFormat("hermes", _MARKERS, _is_spoken_by, HermesReader, _grammar)
