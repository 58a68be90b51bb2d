"""Turns messages and tools of a body into a conversation and what may be called in it."""

import json

from treedraft.coordinator.http.bodies import ChatBody, Message
from treedraft.coordinator.http.tool_bodies import NamedTool, ToolBody
from treedraft.core.errors import InvalidRequestError
from treedraft.core.generation import ChatMessage
from treedraft.core.tools import Tool, ToolCall, ToolChoice, ToolOffer


def conversation_of(body: ChatBody) -> tuple[ChatMessage, ...]:
    """Return the conversation.

    Raises:
        InvalidRequestError: a message has what does not go with its role, or lacks content.
    """
    return tuple(_message(message, f"messages[{i}]") for i, message in enumerate(body.messages))


def _message(message: Message, place: str) -> ChatMessage:
    if message.tool_calls and message.role != "assistant":
        raise _misplaced(f"{place}.tool_calls", "assistant")
    if message.role != "tool":
        for name in ("tool_call_id", "name"):
            if getattr(message, name) is not None:
                raise _misplaced(f"{place}.{name}", "tool")
    if message.content is None and not message.tool_calls:
        raise InvalidRequestError(
            f"{place}.content is missing", field=f"{place}.content", reason="MISSING_PARAMETER"
        )
    content = message.content or ""
    if not isinstance(content, str):
        content = "".join(part.text for part in content)
    return ChatMessage(
        # OpenAI's newer name for the same thing; templates know the older.
        "system" if message.role == "developer" else message.role,
        content,
        tuple(
            ToolCall(call.id, call.function.name, call.function.arguments)
            for call in message.tool_calls or ()
        ),
        message.tool_call_id or "",
        message.name or "",
    )


def _misplaced(name: str, role: str) -> InvalidRequestError:
    return InvalidRequestError(f"{name} goes with the role {role}", field=name)


def offer_of(body: ChatBody) -> ToolOffer | None:
    """Return the tools that may be called, if there are any.

    Raises:
        InvalidRequestError: a tool is none, or one is to be called that is not there.
    """
    choice = body.tool_choice or "auto"
    if not body.tools:
        if choice not in ("none", "auto"):
            raise InvalidRequestError("tool_choice without tools", field="tool_choice")
        return None
    named = choice if isinstance(choice, NamedTool) else None
    return ToolOffer(
        tools=tuple(_tool(tool) for tool in body.tools),
        choice=ToolChoice.REQUIRED if isinstance(choice, NamedTool) else ToolChoice(choice),
        name=named.function.name if named else "",
        is_parallel=body.parallel_tool_calls is not False,
    )


def _tool(given: ToolBody) -> Tool:
    function = given.function
    return Tool(
        name=function.name,
        description=function.description or "",
        parameters="" if function.parameters is None else json.dumps(function.parameters),
        is_strict=bool(function.strict),
    )
