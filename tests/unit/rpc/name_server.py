"""A name server on loopback: answers every question for an A record with the same addresses."""

import asyncio
import ipaddress
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_A, _IN = 1, 1
_ANSWER = 0x8180  # a response, recursion desired and available, no error
_HEADER = 12


class NameServer(asyncio.DatagramProtocol):
    """Answers over UDP."""

    def __init__(self, addresses: list[str]) -> None:
        self.addresses = addresses
        self.num_asked = 0

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, sender: tuple[str, int]) -> None:
        self.num_asked += 1
        number = data[:2]
        end = data.index(b"\0", _HEADER) + 1  # of the name that is asked for
        question = data[_HEADER : end + 4]
        kind, _ = struct.unpack("!HH", data[end : end + 4])
        addresses = self.addresses if kind == _A else []
        header = number + struct.pack("!HHHHH", _ANSWER, 1, len(addresses), 0, 0)
        records = [
            # The name is that of the question; the record is good for a second.
            struct.pack("!HHHIH", 0xC000 | _HEADER, _A, _IN, 1, 4)
            + ipaddress.IPv4Address(address).packed
            for address in addresses
        ]
        self._transport.sendto(header + question + b"".join(records), sender)


@asynccontextmanager
async def a_name_server(addresses: list[str]) -> AsyncIterator[tuple[NameServer, int]]:
    """Run a name server; give it and its port."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: NameServer(addresses), local_addr=("127.0.0.1", 0)
    )
    try:
        yield server, transport.get_extra_info("sockname")[1]
    finally:
        transport.close()
