"""What can be asked at the door, whichever way it is asked.

gRPC and HTTP are two skins over these: each makes a `Caller` and a query of
what came over the wire, and answers of what comes back. Who the caller is, is
found out here, so that no skin can forget to ask.
"""

import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from treedraft.coordinator.admission import check_prompt
from treedraft.coordinator.api_keys import TenantRoll
from treedraft.coordinator.choices import merged
from treedraft.coordinator.generation import Coordinator
from treedraft.coordinator.model_index import find_targets
from treedraft.coordinator.registry import WorkerRegistry
from treedraft.coordinator.tool_use import bound_by_tools, without_idle_tools
from treedraft.core.generation import GenerateEvent, GenerateQuery, ResumeQuery, ServedModel
from treedraft.core.rollout import RolloutDescription, WeightChange
from treedraft.core.worker import ClusterDescription
from treedraft.text.token_bytes import TokenBytes


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

    def __init__(
        self,
        coordinator: Coordinator,
        registry: WorkerRegistry,
        tenants: TenantRoll,
        *,
        draw_seed: Callable[[], int] = lambda: secrets.randbits(64),
    ) -> None:
        """Let these tenants ask this coordinator, which serves from this registry."""
        self._coordinator = coordinator
        self._registry = registry
        self._tenants = tenants
        self._draw_seed = draw_seed

    def generate(
        self, query: GenerateQuery, caller: Caller, *, is_kept: bool = True
    ) -> AsyncGenerator[GenerateEvent, None]:
        """Return Started, then Deltas, then Finished.

        Closing it leaves the session, which can be resumed for a grace time, or
        cancels it if it is not to be kept. It raises a TreedraftError if the
        request is refused or its session fails.
        """
        tenant = self._tenants.tenant_of(caller.api_key)
        query = without_idle_tools(query)
        if query.tools is not None:
            known = self._coordinator.find_model(query.model)
            query = bound_by_tools(query, query.tools, known, self._coordinator.tool_formats)
        return self._coordinator.generate(
            query,
            tenant=tenant,
            traceparent=caller.traceparent,
            time_limit_seconds=caller.time_limit_seconds,
            is_kept=is_kept,
        )

    async def generate_choices(
        self, queries: Sequence[GenerateQuery], caller: Caller, *, is_kept: bool = False
    ) -> AsyncGenerator[tuple[int, GenerateEvent], None]:
        """Yield the events of several answers as they come, each with its number.

        Without a seed, one is drawn for all of them: choices of one prompt are
        told apart by their numbers. The first error ends all. Closing it cancels
        them, unless they are to be kept for a grace time.
        """
        if len(queries) > 1:
            seed = self._draw_seed()
            queries = [_seeded(query, seed) for query in queries]
        answers = [self.generate(query, caller, is_kept=is_kept) for query in queries]
        async with aclosing(merged(answers)) as events:
            async for index, event in events:
                yield index, event

    def resume(self, query: ResumeQuery, caller: Caller) -> AsyncGenerator[GenerateEvent, None]:
        """Return the rest of an answer whose stream broke; otherwise as `generate`."""
        return self._coordinator.resume(
            query,
            tenant=self._tenants.tenant_of(caller.api_key),
            traceparent=caller.traceparent,
            time_limit_seconds=caller.time_limit_seconds,
        )

    async def token_bytes(self, model: str, caller: Caller) -> TokenBytes:
        """Return what single tokens of a model stand for; raises as `decode`."""
        self._tenants.tenant_of(caller.api_key)
        return find_targets(model, self._registry.targets())[0][1].tokenizer.token_bytes

    async def decode(self, model: str, token_ids: Sequence[int], caller: Caller) -> str:
        """Return the text of token ids, special ones included.

        Raises:
            InvalidRequestError: TOKEN_OUT_OF_RANGE, or the model is not named well enough.
        """
        self._tenants.tenant_of(caller.api_key)
        _, known = find_targets(model, self._registry.targets())[0]
        check_prompt(token_ids, known.description)
        return known.tokenizer.decode(token_ids, skip_special=False)

    async def cancel(self, session_id: str, caller: Caller) -> None:
        """End a session of the caller's; one that it does not have is no error."""
        tenant = self._tenants.tenant_of(caller.api_key)
        await self._coordinator.cancel(session_id, tenant=tenant)

    async def list_models(self, caller: Caller) -> list[ServedModel]:
        """Return the models that can be asked for, ordered by name."""
        self._tenants.tenant_of(caller.api_key)
        return await self._coordinator.list_models()

    async def describe_cluster(self, caller: Caller) -> ClusterDescription:
        """Return the workers and the number of requests that run here."""
        self._tenants.tenant_of(caller.api_key)
        return await self._coordinator.describe_cluster()

    async def describe_rollout(self, caller: Caller) -> RolloutDescription:
        """Return the pools that share new sessions, and what came of those."""
        self._tenants.tenant_of(caller.api_key)
        return await self._coordinator.rollout.describe()

    async def set_pool_weights(self, changes: Sequence[WeightChange], caller: Caller) -> None:
        """Change shares of new sessions, for all coordinators. For operators."""
        self._tenants.check_operator(caller.api_key)
        await self._coordinator.rollout.change(changes)


def _seeded(query: GenerateQuery, seed: int) -> GenerateQuery:
    if query.sampling.seed is not None:
        return query
    return replace(query, sampling=replace(query.sampling, seed=seed))
