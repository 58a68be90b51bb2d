"""Tools that a model may call, and the calls that it makes.

Schemas and arguments stay JSON text: what was written is what is passed on.
"""

import json
import re
from dataclasses import dataclass
from enum import Enum

from treedraft.core.errors import InvalidRequestError

MAX_TOOLS = 128
MAX_TOOL_CALLS = 16
"""Calls that one answer may make where they are held to their schemas."""
MAX_TOOL_NAME_CHARS = 64

TOOLS_CONFLICT = "TOOLS_CONFLICT"

_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_TOOL_NAME_CHARS}}}")


def _invalid(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, field="tools", reason="INVALID_TOOLS")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that can be called.

    `parameters` is the JSON schema of its arguments, empty for none. `is_strict`
    holds calls to it even where the model is free to call or not.

    Raises InvalidRequestError, reason INVALID_TOOLS.
    """

    name: str
    description: str = ""
    parameters: str = ""
    is_strict: bool = False

    def __post_init__(self) -> None:
        """Check name and schema."""
        if not _NAME.fullmatch(self.name):
            raise _invalid(f"a tool's name has 1 to {MAX_TOOL_NAME_CHARS} letters, digits, - and _")
        if self.parameters and not _is_schema_of_object(self.parameters):
            raise _invalid(f"the parameters of {self.name} are no JSON schema of an object")


class ToolChoice(Enum):
    """Whether tools are called."""

    NONE = "none"
    AUTO = "auto"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """Tools that an answer may or must call; with a `name`, that one, once.

    Raises InvalidRequestError, reason INVALID_TOOLS.
    """

    tools: tuple[Tool, ...]
    choice: ToolChoice = ToolChoice.AUTO
    name: str = ""
    is_parallel: bool = True

    def __post_init__(self) -> None:
        """Check that names are unique, and that the named one is there."""
        if not 1 <= len(self.tools) <= MAX_TOOLS:
            raise _invalid(f"1 to {MAX_TOOLS} tools")
        if len(self.names) != len(self.tools):
            raise _invalid("two tools have one name")
        if self.name and not self.is_forced:
            raise InvalidRequestError(
                "a tool that is named is required", field="tool_choice", reason="INVALID_TOOLS"
            )
        if self.name and self.name not in self.names:
            raise InvalidRequestError(
                f"there is no tool {self.name}", field="tool_choice", reason="INVALID_TOOLS"
            )

    @property
    def names(self) -> frozenset[str]:
        """The tools by their names."""
        return frozenset(tool.name for tool in self.tools)

    @property
    def is_forced(self) -> bool:
        """Whether the answer is nothing but calls."""
        return self.choice is ToolChoice.REQUIRED

    @property
    def is_bound(self) -> bool:
        """Whether what is called has to be held to a form while it is written."""
        has_strict = any(tool.is_strict for tool in self.tools)
        return self.is_forced or has_strict or not self.is_parallel

    @property
    def max_calls(self) -> int:
        """How many calls one answer may make where its form is held."""
        return MAX_TOOL_CALLS if self.is_parallel and not self.name else 1


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model made; its arguments should be a JSON object, and may be none."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolCallPiece:
    """Part of a call: `index` says which of the answer's. Id and name come with the first."""

    index: int
    arguments: str = ""
    call_id: str = ""
    name: str = ""


def _is_schema_of_object(text: str) -> bool:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(schema, dict) and schema.get("type", "object") == "object"
