"""Gathers what placement has to know of the workers, and asks it."""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from treedraft.coordinator.model_index import ServedTarget
from treedraft.coordinator.placement import (
    DrafterCandidate,
    Placement,
    TargetCandidate,
    contenders,
    place,
)
from treedraft.coordinator.registry import WorkerRegistry
from treedraft.coordinator.session_store.records import WorkerRecord
from treedraft.core.prefix import page_hashes, short_hash
from treedraft.core.rollout import NO_WEIGHTS, Weights
from treedraft.telemetry import names
from treedraft.telemetry.spans import AttributeValue


class Placer:
    """Places sessions on the workers of a registry."""

    def __init__(
        self,
        registry: WorkerRegistry,
        num_drafters: int,
        weights: Callable[[], Weights] = lambda: NO_WEIGHTS,
        *,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Name that many drafters for each session.

        Args:
            registry: the workers.
            num_drafters: for each session.
            weights: the shares of pools that somebody has set.
            draw: uniform numbers, by which pools are chosen.
        """
        self._registry = registry
        self._num_drafters = num_drafters
        self._weights = weights
        self._draw = draw

    async def place(
        self,
        targets: Sequence[ServedTarget],
        prompt: Sequence[int],
        *,
        tenant_salt: bytes = b"",
        is_speculative: bool = True,
        is_new: bool = True,
    ) -> Placement:
        """Choose a target whose context and KV pool hold the prompt, and drafters.

        One that may be gone is chosen only if there is no other. A session that
        is not new goes where it can, whatever the shares of pools.

        Raises:
            UnavailableError: no target can take it (NO_TARGET).
        """
        pages: dict[tuple[str, int], list[int]] = {}
        candidates: dict[tuple[str, int], list[TargetCandidate]] = defaultdict(list)
        for worker, known in targets:
            model = known.description
            if len(prompt) > min(model.max_prompt_tokens, model.context_length - 1):
                continue
            key = (model.fingerprint, model.block_size)
            if key not in pages:
                pages[key] = _short_hashes(prompt, model.fingerprint, model.block_size, tenant_salt)
            candidates[key].append(self._candidate(worker, -(-len(prompt) // model.block_size)))
        informed = [
            one for key, group in candidates.items() for one in await self._ask(group, pages[key])
        ]
        placement = place(
            informed,
            self._drafters() if is_speculative else (),
            num_drafters=self._num_drafters,
            weights=self._weights(),
            draw=self._draw,
            is_new=is_new,
        )
        self._registry.assign(placement.target.worker_id, num_pages=placement.num_pages)
        for drafter in placement.drafters:
            self._registry.assign(drafter.worker_id)
        return placement

    def _candidate(self, worker: WorkerRecord, num_prompt_pages: int) -> TargetCandidate:
        worker_id = worker.registration.worker_id
        return TargetCandidate(
            worker.registration,
            worker.report,
            num_prompt_pages=num_prompt_pages,
            num_assigned=self._registry.num_assigned(worker_id),
            num_assigned_pages=self._registry.num_assigned_pages(worker_id),
            is_doubted=self._registry.is_doubted(worker.registration),
        )

    async def _ask(
        self, candidates: Sequence[TargetCandidate], pages: Sequence[int]
    ) -> list[TargetCandidate]:
        """Return the candidates, with what those that may win hold of the prompt."""
        asked = [one.registration.worker_id for one in contenders(candidates)]
        held = await self._registry.held_pages(asked, pages)
        return [
            replace(one, num_held_pages=held.get(one.registration.worker_id, 0))
            for one in candidates
        ]

    def _drafters(self) -> list[DrafterCandidate]:
        return [
            DrafterCandidate(
                worker.registration,
                worker.report,
                self._registry.num_assigned(worker.registration.worker_id),
            )
            for worker in self._registry.drafters()
        ]


def placement_attributes(placement: Placement) -> dict[str, AttributeValue]:
    """Return what a span says of a placement."""
    return {
        names.ATTR_PLACE_TARGET: placement.target.worker_id,
        names.ATTR_PLACE_DRAFTERS: [drafter.worker_id for drafter in placement.drafters],
        names.ATTR_PLACE_REASON: placement.reason,
    }


def _short_hashes(
    prompt: Sequence[int], fingerprint: str, block_size: int, tenant_salt: bytes
) -> list[int]:
    hashes = page_hashes(
        prompt, block_size=block_size, fingerprint=fingerprint, tenant_salt=tenant_salt
    )
    return [short_hash(page_hash) for page_hash in hashes]
