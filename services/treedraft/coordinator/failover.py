"""Finds a new target for a session whose own is gone, frozen or going away.

The text goes on where it was: prompt, seed and the tokens so far determine the
rest, so the new target needs nothing of the old one. A session moves among
targets of one numeric fingerprint as long as there is one. It goes back to a
process that it has left only if that one was cut off or frozen, was heard of
since, and there is no other: a network that fails for a moment must not end the
sessions of the only target. Every prefill of a move slows the survivors down, so
sessions move in turns; a turn ends by itself, hence nobody waits for ever.
"""

import asyncio
from dataclasses import dataclass, field

from treedraft.coordinator.catalog import KnownModel
from treedraft.coordinator.model_index import ServedTarget
from treedraft.coordinator.placement import Placement
from treedraft.coordinator.placer import Placer
from treedraft.coordinator.registry import WorkerRegistry
from treedraft.coordinator.session_store.records import WorkerRecord
from treedraft.coordinator.settings import FailoverSettings
from treedraft.core.errors import UnavailableError
from treedraft.core.session import SessionSpec

MOVES_EXHAUSTED = "MOVES_EXHAUSTED"
NO_TARGET_LEFT = "NO_TARGET_LEFT"

ProcessId = tuple[str, str]
"""A worker and one start of it."""


@dataclass(frozen=True, slots=True)
class Departure:
    """A session on the move: its spec with all tokens so far, and where it was."""

    spec: SessionSpec
    model: KnownModel
    left: frozenset[ProcessId] = field(default_factory=frozenset)


class Turn:
    """The right to burden a target with a move; ends once, by whoever comes first."""

    def __init__(self, places: asyncio.Semaphore, seconds: float) -> None:
        """Begin with one of the places taken; end after that time at the latest."""
        self._places = places
        self._timer = asyncio.get_running_loop().call_later(seconds, self.end)
        self._has_ended = False

    def end(self) -> None:
        """Let the next session move."""
        if not self._has_ended:
            self._has_ended = True
            self._timer.cancel()
            self._places.release()


class Failover:
    """Places sessions anew, so many at a time."""

    def __init__(
        self, registry: WorkerRegistry, placer: Placer, settings: FailoverSettings
    ) -> None:
        """Choose among the targets of the registry."""
        self.settings = settings
        self._registry = registry
        self._placer = placer
        self._places = asyncio.Semaphore(settings.max_at_once)
        # Left because nothing came from there any more, not because they sent us away.
        self._lost: set[ProcessId] = set()

    def doubt(self, process: ProcessId) -> None:
        """Note that a target may be gone, so that nothing else is placed there."""
        self._registry.doubt(*process)
        known = {_process_of(worker) for worker, _ in self._registry.targets()}
        self._lost = (self._lost & known) | {process}

    async def place(self, departure: Departure) -> tuple[Placement, Turn]:
        """Wait for a target and for a turn; return where the session goes on.

        Raises:
            UnavailableError: no target came up in time (NO_TARGET_LEFT).
        """
        while True:
            await self._wait_for_target(departure)
            await self._places.acquire()
            turn = Turn(self._places, self.settings.turn_seconds)
            try:
                return await self._choose(departure), turn
            except UnavailableError:
                turn.end()  # the last target left while we waited for our turn
            except BaseException:
                turn.end()
                raise

    async def _wait_for_target(self, departure: Departure) -> None:
        try:
            async with asyncio.timeout(self.settings.wait_seconds):
                while not self._candidates(departure):
                    await self._registry.change()
        except TimeoutError:
            raise UnavailableError(
                f"no other target came up within {self.settings.wait_seconds:g} s",
                reason=NO_TARGET_LEFT,
            ) from None

    async def _choose(self, departure: Departure) -> Placement:
        spec = departure.spec
        return await self._placer.place(
            self._candidates(departure),
            spec.token_ids,
            tenant_salt=spec.tenant_salt,
            is_speculative=spec.speculation.enabled,
            is_new=False,
        )

    def _candidates(self, departure: Departure) -> list[ServedTarget]:
        """Return the targets that can go on; those whose numbers are the same, if any."""
        able = [target for target in self._registry.targets() if _can_go_on(departure, *target)]
        new = [target for target in able if _process_of(target[0]) not in departure.left]
        able = new or [target for target in able if self._is_back(target[0])]
        fingerprint = departure.model.description.fingerprint
        same = [target for target in able if target[1].description.fingerprint == fingerprint]
        return same or able

    def _is_back(self, worker: WorkerRecord) -> bool:
        """Return whether a target that was lost was heard of since."""
        is_lost = _process_of(worker) in self._lost
        return is_lost and not self._registry.is_doubted(worker.registration)


def _process_of(worker: WorkerRecord) -> ProcessId:
    return worker.registration.worker_id, worker.registration.incarnation


def _can_go_on(departure: Departure, worker: WorkerRecord, known: KnownModel) -> bool:
    model, spec = departure.model.description, departure.spec
    offered = known.description
    whole_length = spec.prompt_length + (spec.stopping.max_tokens or 1)
    return (
        not worker.report.is_draining
        and (offered.model, offered.tokenizer_hash) == (model.model, model.tokenizer_hash)
        and whole_length <= offered.context_length
        and len(spec.token_ids) <= min(offered.max_prompt_tokens, offered.context_length - 1)
    )
