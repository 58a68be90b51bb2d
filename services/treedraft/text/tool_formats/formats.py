"""Which formats there are, and which of them a model speaks."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from treedraft.text.tool_formats.format import ToolFormat
from treedraft.text.tool_formats.hermes import HERMES
from treedraft.text.tool_formats.llama3_json import LLAMA3_JSON
from treedraft.text.tool_formats.mistral import MISTRAL

FORMATS: Mapping[str, ToolFormat] = MappingProxyType(
    {one.name: one for one in (HERMES, MISTRAL, LLAMA3_JSON)}
)


EVERY_MODEL = "*"


def format_of(template: str) -> ToolFormat | None:
    """Return the format that a chat template has its model write, if it is known."""
    return next((one for one in FORMATS.values() if one.is_spoken_by(template)), None)


class ToolFormats:
    """The formats that models speak: by name where they are named, else by their templates."""

    def __init__(self, named: Sequence[str] = ()) -> None:
        """Take `MODEL=FORMAT` for what the templates do not show; `*` is every model.

        Raises:
            ValueError: one of them is no such pair.
        """
        self._named: dict[str, ToolFormat] = {}
        for pair in named:
            model, _, name = pair.rpartition("=")
            if not model or name not in FORMATS:
                known = ", ".join(FORMATS)
                raise ValueError(f"{pair!r} is no MODEL=FORMAT; formats are {known}")
            self._named[model] = FORMATS[name]

    def find(self, model: str, template: str) -> ToolFormat | None:
        """Return the format of a model, if it is known."""
        named = self._named.get(model) or self._named.get(EVERY_MODEL)
        return named or format_of(template)
