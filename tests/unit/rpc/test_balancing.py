"""A client of a name with several addresses shares its calls out: several loopback addresses."""

from collections import Counter
from contextlib import AsyncExitStack

import pytest
from tests.unit.rpc.name_server import a_name_server
from tests.waiting import patience

from treedraft.core.errors import UnavailableError
from treedraft.rpc.coordinator_client import CoordinatorClient
from treedraft.rpc.server import RpcServer
from treedraft.settings import GrpcSettings
from treedraft.v1 import coordinator_service_pb2 as pb
from treedraft.v1 import coordinator_service_pb2_grpc as pb_grpc

NAME = "treedraft.v1.CoordinatorService"
ADDRESSES = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]


class Door(pb_grpc.CoordinatorServiceServicer):
    """Says which of them it is, as the name of a model."""

    def __init__(self, address):
        self.address = address

    async def ListModels(self, request, context):  # noqa: N802 - the name is the RPC's
        return pb.ListModelsResponse(models=[pb.ServedModel(model=self.address)])


class Doors:
    """Coordinators at the same port of several addresses, and a client of the name for them."""

    def __init__(self):
        self.servers = {}
        self.port = 0

    async def start(self, address):
        server = RpcServer(GrpcSettings(host=address, port=self.port), [NAME])
        pb_grpc.add_CoordinatorServiceServicer_to_server(Door(address), server.grpc)
        endpoint = await server.start()
        self.port = int(endpoint.rpartition(":")[2])
        self.servers[address] = server

    async def stop(self, address):
        await self.servers.pop(address).stop(0)


@pytest.fixture
async def doors():
    made = Doors()
    for address in ADDRESSES:
        await made.start(address)
    yield made
    for address in list(made.servers):
        await made.stop(address)


async def answers(client, count):
    return Counter([(await client.list_models())[0].model for _ in range(count)])


async def until_all_answer(client, wanted):
    """Ask until each of them has answered: connections are made one after another."""
    async with patience():
        seen = Counter()
        while set(seen) != set(wanted):
            seen += await answers(client, 1)


@pytest.fixture
async def by_name(doors):
    """A client that knows a name and a name server, as in a cluster."""
    async with AsyncExitStack() as stack:
        _, dns = await stack.enter_async_context(a_name_server(ADDRESSES))
        endpoint = f"dns://127.0.0.1:{dns}/coordinators.serving.svc:{doors.port}"
        client = CoordinatorClient(endpoint)
        stack.push_async_callback(client.close)
        yield client


async def test_calls_go_to_each_address_in_turn(by_name):
    await until_all_answer(by_name, ADDRESSES)
    assert await answers(by_name, 9) == dict.fromkeys(ADDRESSES, 3)


async def test_one_that_ends_is_left_out_and_one_that_comes_back_is_taken_in(doors, by_name):
    await until_all_answer(by_name, ADDRESSES)
    await doors.stop(ADDRESSES[0])
    # None of these fails: reading calls are tried again elsewhere.
    assert set(await answers(by_name, 9)) == set(ADDRESSES[1:])
    await doors.start(ADDRESSES[0])
    await until_all_answer(by_name, ADDRESSES)


async def test_addresses_can_be_listed_as_well(doors):
    listed = ",".join(f"{address}:{doors.port}" for address in ADDRESSES)
    client = CoordinatorClient(f"ipv4:{listed}")
    await until_all_answer(client, ADDRESSES)
    await client.close()


async def test_a_name_that_nobody_has_is_no_connection():
    async with a_name_server([]) as (server, dns):
        client = CoordinatorClient(f"dns://127.0.0.1:{dns}/nobody.serving.svc:50051")
        with pytest.raises(UnavailableError):
            await client.list_models(timeout_seconds=20)
        await client.close()
    assert server.num_asked > 0
