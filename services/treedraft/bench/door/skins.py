"""The two doors of a coordinator behind one verb: ask for text, hear its pieces.

What they ask is the same to the letter: greedy, a fixed length, and without
speculation, so that each token is a piece of its own and both hear the same
pieces.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from treedraft.bench.door.http_stream import HttpStreams
from treedraft.core.generation import ChatMessage, Delta, GenerateQuery
from treedraft.core.sampling import SamplingParameters, SpeculationOptions, StoppingCriteria
from treedraft.rpc.coordinator_client import CoordinatorClient

GRPC, HTTP = "gRPC", "HTTP"
SKINS = (GRPC, HTTP)


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked: a conversation, and how many tokens."""

    conversation: tuple[ChatMessage, ...]
    num_tokens: int


class Skin(Protocol):
    """A door."""

    def stream(self, request: Request) -> AsyncGenerator[str, None]:
        """Ask, and yield each piece of text as it comes; none is empty."""
        ...


class GrpcSkin:
    """The gRPC door."""

    def __init__(self, client: CoordinatorClient) -> None:
        """Ask through a client; whoever made it closes it."""
        self._client = client

    async def stream(self, request: Request) -> AsyncGenerator[str, None]:
        """Ask, and yield each piece of text as it comes."""
        query = GenerateQuery(
            conversation=request.conversation,
            sampling=SamplingParameters(temperature=0.0),
            stopping=StoppingCriteria(max_tokens=request.num_tokens, ignore_eos=True),
            speculation=SpeculationOptions(enabled=False),
        )
        async with aclosing(self._client.generate(query)) as events:
            async for event in events:
                if isinstance(event, Delta) and event.text:
                    yield event.text


class HttpSkin:
    """The HTTP door, asked as load generators ask it: with usage at the end."""

    def __init__(self, streams: HttpStreams) -> None:
        """Ask through these streams; whoever made them closes them."""
        self._streams = streams

    async def stream(self, request: Request) -> AsyncGenerator[str, None]:
        """Ask, and yield each piece of text as it comes."""
        async with aclosing(self._streams.chat(http_body(request))) as events:
            async for event in events:
                for choice in event["choices"]:
                    if text := choice["delta"].get("content"):
                        yield text


def http_body(request: Request) -> dict[str, Any]:
    """Return the body that asks for what the gRPC door is asked for."""
    return {
        "messages": [
            {"role": message.role, "content": message.content} for message in request.conversation
        ],
        "temperature": 0,
        "max_tokens": request.num_tokens,
        "ignore_eos": True,
        "speculation": {"enabled": False},
        "stream": True,
        "stream_options": {"include_usage": True},
    }
