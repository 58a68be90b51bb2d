"""The network: what gRPC over TCP can do to messages, and nothing that it cannot.

Within one direction of one stream messages arrive in order, each once. Between
streams, and between the two directions of one, nothing is promised: each message
takes its own time. A stream can break at any moment; each end then still gets
some of what was under way, loses the rest, and learns of the break at a time of
its own. A frozen process neither sends nor receives until it wakes up; what
others sent it meanwhile waits. A cut keeps two processes from dialling too.
There is no other loss and no duplication: those come from above, when a stream
is dialled again and a start, a claim or a log entry is sent anew. Messages cross
as bytes, through the real converters.
"""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.actor import Actor
from tests.simulation.virtual_time import CURRENT, VirtualLoop

from treedraft.core.errors import TreedraftError, UnavailableError

_WINDOW = 32  # messages under way before a writer waits: flow control
_END = object()


@dataclass(frozen=True, slots=True)
class Method:
    """An RPC: how it is parsed and who handles it."""

    request: type
    response: type
    handle: Callable[[Any, Any], Any]
    is_request_stream: bool = False


class Context:
    """What handlers ask of their call."""

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def time_remaining(self) -> None:
        return None


@dataclass
class Latency:
    """How long messages take, in seconds: mostly short, now and then long."""

    rng: random.Random
    usual: float = 0.0005
    slow: float = 0.02
    slow_share: float = 0.03

    def draw(self) -> float:
        scale = self.slow if self.rng.random() < self.slow_share else self.usual
        return self.rng.expovariate(1.0 / scale)


class Direction:
    """One way of one stream: in order, each message once, until it breaks."""

    def __init__(self, network: "Network", source: Actor, sink: Actor) -> None:
        self._network = network
        self._source, self._sink = source, sink
        self._under_way: deque[Any] = deque()
        self._arrived: deque[Any] = deque()
        self._changed = asyncio.Event()
        self._last_arrival = 0.0
        self._doomed = 0
        self.is_broken = False
        self.error: TreedraftError | None = None

    async def put(self, item: Any) -> None:
        while len(self._under_way) + len(self._arrived) >= _WINDOW and not self.is_broken:
            await self._change()
        self.put_nowait(item)

    def put_nowait(self, item: Any) -> None:
        if self.is_broken or not self._source.is_alive:
            return
        loop = self._network.loop
        leaves_at = max(loop.time(), self._source.frozen_until)
        self._last_arrival = max(self._last_arrival, leaves_at + self._network.latency.draw())
        self._under_way.append(item)
        loop.call_at(self._last_arrival, self._arrive)

    def break_off(self, error: TreedraftError, *, within: float) -> None:
        """Lose some of what is under way; the sink learns of it a while later."""
        if not self.is_broken:
            self.is_broken = True
            rng, loop = self._network.rng, self._network.loop
            self._doomed = rng.randint(0, len(self._under_way))
            self._changed.set()
            loop.call_later(rng.uniform(0.0, within), self._tell, error)

    async def get(self) -> Any:
        while not self._arrived:
            if self.error is not None:
                raise self.error
            await self._change()
        self._changed.set()
        return self._arrived.popleft()

    def _arrive(self) -> None:
        loop = self._network.loop
        if self._sink.frozen_until > loop.time():
            loop.call_at(self._sink.frozen_until, self._arrive)
        elif len(self._under_way) > self._doomed and self.error is None:
            self._arrived.append(self._under_way.popleft())
            self._changed.set()

    def _tell(self, error: TreedraftError) -> None:
        self._under_way.clear()
        self.error = self.error or error
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class Call:
    """A call, as the side that dialled sees it: what `rpc.stream.MessageStream` offers."""

    def __init__(self, network: "Network", client: Actor, server: Actor, method: Method) -> None:
        self.ends = client, server
        self.up = Direction(network, client, server)
        self.down = Direction(network, server, client)
        self.handler: asyncio.Task[None] | None = None
        self._network = network
        self._method = method
        self._is_closed = False

    async def write(self, message: Any) -> None:
        if self._is_closed or self.down.error is not None:
            raise self.down.error or UnavailableError("closed", reason="STREAM_ENDED")
        await self.up.put(message.SerializeToString())

    async def read(self) -> Any | None:
        try:
            item = await self.down.get()
        except TreedraftError:
            if self._is_closed:
                return None
            raise
        if item is _END:
            self.down.error = self.down.error or UnavailableError("ended", reason="STREAM_ENDED")
            return None
        if isinstance(item, TreedraftError):
            self.down.error = item
            raise item
        return self._method.response.FromString(item)

    def close(self) -> None:
        """End the call from this side; the handler is cancelled a moment later."""
        if not self._is_closed:
            self._is_closed = True
            self.break_off(within=0.001, only_up=True)
            self.down.break_off(UnavailableError("closed", reason="STREAM_ENDED"), within=0.0)

    def break_off(self, *, within: float, only_up: bool = False) -> None:
        """Break the stream; each side learns of it at a time of its own."""
        error = UnavailableError("the stream broke", reason="STREAM_ENDED")
        if not self.up.is_broken:
            self.up.break_off(error, within=within)
            loop = self._network.loop
            heard_at = loop.time() + self._network.rng.uniform(0.0, within)
            loop.call_at(max(heard_at, self.ends[1].frozen_until), self._cancel_handler)
        if not only_up:
            self.down.break_off(error, within=within)
        self._network.calls.pop(self, None)

    def _cancel_handler(self) -> None:
        if self.handler is not None:
            self.handler.cancel()

    async def serve(self) -> None:
        """Run the handler; the server's side of the call."""
        try:
            request = self._requests()
            if not self._method.is_request_stream:
                request = await anext(request, None)
            if request is None:
                return  # broken before it was asked
            async with contextlib.aclosing(self._method.handle(request, Context())) as responses:
                async for response in responses:
                    await self.down.put(response.SerializeToString())
            self.down.put_nowait(_END)
        except TreedraftError as error:
            self.down.put_nowait(error)
        except Exception as error:
            self._network.on_bug(f"handler of {self.ends[1]} raised {error!r}")
            self.down.put_nowait(TreedraftError("internal error"))
        finally:
            self._network.calls.pop(self, None)

    async def _requests(self) -> AsyncIterator[Any]:
        while True:
            try:
                item = await self.up.get()
            except UnavailableError:
                return
            yield self._method.request.FromString(item)


@dataclass
class Network:
    """All servers and calls."""

    loop: VirtualLoop
    rng: random.Random
    on_bug: Callable[[str], None]
    latency: Latency = field(init=False)
    servers: dict[str, tuple[Actor, dict[str, Method]]] = field(default_factory=dict)
    calls: dict[Call, None] = field(default_factory=dict)
    _cuts: dict[frozenset[str], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.latency = Latency(self.rng)

    def serve(self, endpoint: str, actor: Actor, methods: dict[str, Method]) -> None:
        self.servers[endpoint] = actor, methods
        actor.at_death(lambda: self._bury(endpoint, actor))

    async def dial(self, endpoint: str, name: str) -> Call:
        """Open a call from the process that runs this task."""
        client = CURRENT.get()
        await asyncio.sleep(self.latency.draw())
        server, methods = self.servers.get(endpoint, (None, {}))
        if server is None or self.is_cut(client, server) or not client.is_alive:
            await asyncio.sleep(self.latency.draw() * 5)
            raise UnavailableError(f"{endpoint} cannot be reached")
        call = Call(self, client, server, methods[name])
        self.calls[call] = None
        call.handler = spawn(self.loop, server, call.serve())
        return call

    def is_cut(self, one: Actor, other: Actor) -> bool:
        return self._cuts.get(frozenset((one.name, other.name)), 0.0) > self.loop.time()

    def cut(self, one: str, other: str, seconds: float) -> None:
        """Keep two processes apart for a while; their streams break."""
        self._cuts[frozenset((one, other))] = self.loop.time() + seconds
        for call in list(self.calls):
            if {actor.name for actor in call.ends} == {one, other}:
                call.break_off(within=0.5)

    def _bury(self, endpoint: str, actor: Actor) -> None:
        if self.servers.get(endpoint, (None,))[0] is actor:
            del self.servers[endpoint]
        for call in list(self.calls):
            if actor in call.ends:
                call.break_off(within=0.05 if self.rng.random() < 0.8 else 1.0)


def spawn(loop: VirtualLoop, actor: Actor, coro: Any) -> asyncio.Task[Any]:
    """Run a coroutine as part of a process."""
    context = copy_context()
    context.run(CURRENT.set, actor)
    return loop.create_task(coro, context=context)
