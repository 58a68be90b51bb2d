"""What each target serves, as it said itself, with the tokenizer made ready.

A target is asked once per start of its process. Tokenizers are shared between
targets that describe the same one, since building it takes a while.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from treedraft.core.model_description import ModelDescription
from treedraft.core.worker import WorkerRegistration
from treedraft.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model's description and its tokenizer."""

    description: ModelDescription
    tokenizer: Tokenizer


class ModelCatalog:
    """Remembers what targets serve."""

    def __init__(self, describe: Callable[[str], Awaitable[ModelDescription]]) -> None:
        """Ask targets through `describe`, which takes an endpoint."""
        self._describe = describe
        self._models: dict[tuple[str, str], KnownModel] = {}

    def get(self, target: WorkerRegistration) -> KnownModel | None:
        """Return what a target serves, or None if it was not asked yet."""
        return self._models.get((target.worker_id, target.incarnation))

    async def learn(self, target: WorkerRegistration) -> KnownModel:
        """Ask a target what it serves, unless that is known.

        Raises:
            UnavailableError: it does not answer.
        """
        known = self.get(target)
        if known is not None:
            return known
        description = await self._describe(target.endpoint)
        tokenizer = await self._tokenizer(description.tokenizer_json)
        known = KnownModel(description, tokenizer)
        self._models[target.worker_id, target.incarnation] = known
        return known

    def retain(self, targets: Iterable[WorkerRegistration]) -> None:
        """Forget all targets but these."""
        keys = {(target.worker_id, target.incarnation) for target in targets}
        self._models = {key: known for key, known in self._models.items() if key in keys}

    async def _tokenizer(self, tokenizer_json: str) -> Tokenizer:
        for known in self._models.values():
            if known.description.tokenizer_json == tokenizer_json:
                return known.tokenizer
        return await asyncio.to_thread(Tokenizer.from_json, tokenizer_json)
