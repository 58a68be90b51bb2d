"""For programs that ask treedraft: a client that survives whatever the services do.

    async with Client(["10.0.0.1:50050", "10.0.0.2:50050"]) as client:
        async for event in client.generate(GenerateQuery(text="Once upon a time")):
            ...

A stream that breaks is taken up again where it was, at whichever coordinator
answers; the caller sees one answer, each token once.
"""

from treedraft.client.client import Client
from treedraft.client.retries import RetryPolicy

__all__ = ["Client", "RetryPolicy"]
