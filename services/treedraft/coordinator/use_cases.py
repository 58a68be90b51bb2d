"""What can be asked at the door, whichever way it is asked.

gRPC and HTTP are two skins over these: each makes a `Caller` and a query of
what came over the wire, and answers of what comes back. Who the caller is, is
found out here, so that no skin can forget to ask.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from treedraft.coordinator.api_keys import TenantRoll
from treedraft.coordinator.generation import Coordinator
from treedraft.core.generation import GenerateEvent, GenerateQuery, ResumeQuery, ServedModel
from treedraft.core.worker import ClusterDescription


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks and within which bounds, as a skin knows it.

    `traceparent` is the caller's W3C trace context, empty if it has none;
    without a time limit the answer may take as long as it likes.
    """

    api_key: str = field(default="", repr=False)
    traceparent: str = ""
    time_limit_seconds: float | None = None


class UseCases:
    """All that clients can ask of a coordinator.

    Every one of them raises UnauthenticatedError or PermissionDeniedError for
    a caller that may not ask.
    """

    def __init__(self, coordinator: Coordinator, tenants: TenantRoll) -> None:
        """Let these tenants ask this coordinator."""
        self._coordinator = coordinator
        self._tenants = tenants

    def generate(self, query: GenerateQuery, caller: Caller) -> AsyncGenerator[GenerateEvent, None]:
        """Return Started, then Deltas, then Finished; closing it cancels the session.

        It raises a TreedraftError if the request is refused or its session fails.
        """
        return self._coordinator.generate(
            query,
            tenant=self._tenants.tenant_of(caller.api_key),
            traceparent=caller.traceparent,
            time_limit_seconds=caller.time_limit_seconds,
        )

    def resume(self, query: ResumeQuery, caller: Caller) -> AsyncGenerator[GenerateEvent, None]:
        """Return the rest of an answer whose stream broke; otherwise as `generate`."""
        return self._coordinator.resume(
            query,
            tenant=self._tenants.tenant_of(caller.api_key),
            traceparent=caller.traceparent,
            time_limit_seconds=caller.time_limit_seconds,
        )

    async def list_models(self, caller: Caller) -> list[ServedModel]:
        """Return the models that can be asked for, ordered by name."""
        self._tenants.tenant_of(caller.api_key)
        return await self._coordinator.list_models()

    async def describe_cluster(self, caller: Caller) -> ClusterDescription:
        """Return the workers and the number of requests that run here."""
        self._tenants.tenant_of(caller.api_key)
        return await self._coordinator.describe_cluster()
