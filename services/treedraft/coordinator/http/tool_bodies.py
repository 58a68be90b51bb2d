"""Tools as OpenAI's API writes them: what may be called, and the calls of a conversation."""

from typing import Any, Literal

from pydantic import Field

from treedraft.coordinator.http.body import Body
from treedraft.core.tools import MAX_TOOL_NAME_CHARS

_MAX_DESCRIPTION_CHARS = 16_384


class FunctionTool(Body):
    """What a function is called and takes."""

    name: str = Field(min_length=1, max_length=MAX_TOOL_NAME_CHARS)
    description: str | None = Field(default=None, max_length=_MAX_DESCRIPTION_CHARS)
    parameters: dict[str, Any] | None = Field(default=None, description="A JSON schema.")
    strict: bool | None = Field(
        default=None, description="Holds every call to the schema, forced or not."
    )


class ToolBody(Body):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: FunctionTool


class FunctionName(Body):
    """Names a function."""

    name: str


class NamedTool(Body):
    """The tool that is to be called."""

    type: Literal["function"]
    function: FunctionName


class FunctionCall(Body):
    """What was called with what."""

    name: str = Field(min_length=1, max_length=MAX_TOOL_NAME_CHARS)
    arguments: str


class ToolCallBody(Body):
    """A call in a message of the assistant's."""

    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = Field(
        default=None, description="As a stream numbered it, whose reader sends it back."
    )


ToolChoiceBody = Literal["none", "auto", "required"] | NamedTool
