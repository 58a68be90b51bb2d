"""A cluster without processes."""

from typing import ClassVar

from treedraft.core.generation import Delta, Finished, Started
from treedraft.core.growth import TokenSource
from treedraft.core.session import FinishReason, SessionStatistics

RUNNING = []


class FakeCluster:
    endpoint = "host:1"

    def __init__(self, plan, *, progress):
        pass

    async def __aenter__(self):
        RUNNING.append("cluster")
        return self

    async def __aexit__(self, *_of_the_error):
        RUNNING.remove("cluster")


class FakeClient:
    queries: ClassVar[list] = []

    def __init__(self, endpoint):
        assert endpoint == FakeCluster.endpoint
        RUNNING.append("client")

    async def generate(self, query, *, timeout_seconds=None, traceparent=""):
        FakeClient.queries.append(query)
        yield Started("s", 1, query.token_ids, "", "toy")
        for index in range(query.stopping.max_tokens):
            yield Delta(index, (index,), (TokenSource.TARGET,), "text")
        yield Finished(FinishReason.LENGTH, SessionStatistics(rounds=2, emitted_tokens=3), 10.0)

    async def close(self):
        RUNNING.remove("client")
