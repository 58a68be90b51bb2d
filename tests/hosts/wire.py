"""The network between hosts: packets that are forwarded, held up, dropped or lost.

Each host has a TUN device; its other end is a file that this process reads packets from and
writes packets to. So a link is what is said of it here, in each direction, whatever the
kernel can do: one that is cut swallows packets without a word, as a pulled cable does.

`python -m tests.hosts.wire ADDRESS=FD …` forwards until its standard input ends; each line of
that is one command as JSON, and each is answered by a line once it holds.
"""

import asyncio
import json
import os
import random
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace

MTU = 1500
_IPV4 = 4
_DESTINATION = slice(16, 20)


@dataclass(frozen=True, slots=True)
class Link:
    """One direction between two hosts."""

    delay_seconds: float = 0.0
    jitter_seconds: float = 0.0
    loss: float = 0.0
    is_cut: bool = False


WHOLE = Link()


@dataclass(slots=True)
class Wire:
    """Decides what becomes of each packet.

    Attributes:
        deliver: gives a packet to a host, by address.
        clock: seconds.
        later: calls back at a time of that clock.
        rng: of jitter and loss.
    """

    deliver: Callable[[str, bytes], None]
    clock: Callable[[], float]
    later: Callable[[float, Callable[[], None]], object]
    rng: random.Random
    links: dict[tuple[str, str], Link] = field(default_factory=dict)
    num_packets: int = 0
    num_dropped: int = 0
    # When the last packet of a link arrives: none overtakes another.
    _arrivals: dict[tuple[str, str], float] = field(default_factory=dict)

    def change(self, source: str, destination: str, **what: float | bool) -> None:
        """Change a direction; what is not named stays."""
        pair = (source, destination)
        self.links[pair] = replace(self.links.get(pair, WHOLE), **what)

    def take(self, source: str, packet: bytes) -> None:
        """Take a packet that a host has sent."""
        if len(packet) < 20 or packet[0] >> 4 != _IPV4:
            return  # the kernel's own IPv6 chatter
        destination = socket.inet_ntoa(packet[_DESTINATION])
        pair = (source, destination)
        link = self.links.get(pair, WHOLE)
        self.num_packets += 1
        if link.is_cut or (link.loss and self.rng.random() < link.loss):
            self.num_dropped += 1
            return
        now, last = self.clock(), self._arrivals.get(pair, 0.0)
        arrival = max(now + link.delay_seconds + self.rng.uniform(0, link.jitter_seconds), last)
        if arrival <= now:
            self.deliver(destination, packet)
            return
        self._arrivals[pair] = arrival
        self.later(arrival, lambda: self.deliver(destination, packet))


async def forward(files: dict[str, int], commands: asyncio.StreamReader) -> None:
    """Forward among the hosts' files until there are no more commands."""
    loop = asyncio.get_running_loop()

    def deliver(destination: str, packet: bytes) -> None:
        file = files.get(destination)
        if file is not None:
            try:
                os.write(file, packet)
            except OSError:
                wire.num_dropped += 1  # a queue that is full, or a host that is gone

    wire = Wire(deliver, loop.time, loop.call_at, random.Random(1))

    def read(source: str, file: int) -> None:
        try:
            while True:
                wire.take(source, os.read(file, MTU + 64))
        except OSError:
            return  # nothing more for now

    for address, file in files.items():
        os.set_blocking(file, False)
        loop.add_reader(file, read, address, file)
    while line := await commands.readline():
        command = json.loads(line)
        for source, destination in command.pop("pairs", ()):
            wire.change(source, destination, **command)
        print(json.dumps({"packets": wire.num_packets, "dropped": wire.num_dropped}), flush=True)


async def main() -> None:
    files = {
        address: int(file)
        for address, _, file in (argument.partition("=") for argument in sys.argv[1:])
    }
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    await forward(files, commands)


if __name__ == "__main__":
    asyncio.run(main())
