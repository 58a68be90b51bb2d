"""Which formats there are, and which of them a model speaks."""

from collections.abc import Mapping
from types import MappingProxyType

from treedraft.text.tool_formats.format import ToolFormat
from treedraft.text.tool_formats.hermes import HERMES
from treedraft.text.tool_formats.llama3_json import LLAMA3_JSON
from treedraft.text.tool_formats.mistral import MISTRAL

FORMATS: Mapping[str, ToolFormat] = MappingProxyType(
    {one.name: one for one in (HERMES, MISTRAL, LLAMA3_JSON)}
)


def format_of(template: str) -> ToolFormat | None:
    """Return the format that a chat template has its model write, if it is known."""
    return next((one for one in FORMATS.values() if one.is_spoken_by(template)), None)
