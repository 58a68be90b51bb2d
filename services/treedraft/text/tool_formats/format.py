"""A way to write calls, as a value: what each file of a format ends with."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from treedraft.core.grammar import Grammar
from treedraft.core.tools import ToolOffer
from treedraft.text.tool_formats.calls_grammar import TokenIds
from treedraft.text.tool_formats.reader import CallReader

_NUM_HEX = 24


def plain_call_id(digest: bytes) -> str:
    """Return an id in OpenAI's manner."""
    return f"call_{digest.hex()[:_NUM_HEX]}"


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """A way to write calls.

    `markers` may be special tokens of a model, and have to be seen nevertheless.
    `is_spoken_by` takes a chat template. `reader` begins a text, with the names of the
    tools and what names a call by its number. `grammar` is that of the answers to an
    offer, for a vocabulary, a template and the JSON that an answer without calls must
    be, if it must. `call_id` makes an id of what only this call has.
    """

    name: str
    markers: tuple[str, ...]
    is_spoken_by: Callable[[str], bool]
    reader: Callable[[Collection[str], Callable[[int], str]], CallReader]
    grammar: Callable[[ToolOffer, TokenIds, str, Grammar | None], Grammar]
    call_id: Callable[[bytes], str] = plain_call_id
