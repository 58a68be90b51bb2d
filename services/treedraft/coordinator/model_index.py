"""Which models there are, by the names that clients use."""

from collections.abc import Sequence

from treedraft.coordinator.catalog import KnownModel
from treedraft.coordinator.placement import fits
from treedraft.coordinator.session_store.records import WorkerRecord
from treedraft.core.errors import InvalidRequestError, UnavailableError, UnknownModelError
from treedraft.core.generation import ServedModel

ServedTarget = tuple[WorkerRecord, KnownModel]


def find_targets(name: str, targets: Sequence[ServedTarget]) -> list[ServedTarget]:
    """Return the targets of one model that read prompts alike, the reference first.

    An empty name takes the only model served. Should targets of one name
    differ in tokenizer or chat template, those like the first of them count.

    Raises:
        UnavailableError: nothing is served (NO_TARGET).
        UnknownModelError: something is, but not this.
        InvalidRequestError: no name, and several models (MODEL_REQUIRED).
    """
    names = sorted({worker.registration.model for worker, _ in targets})
    if not names:
        raise UnavailableError("no target serves any model yet", reason="NO_TARGET")
    if not name and len(names) > 1:
        raise InvalidRequestError(
            f"name one of the models served: {', '.join(names)}",
            field="model",
            reason="MODEL_REQUIRED",
        )
    name = name or names[0]
    found = [target for target in targets if target[0].registration.model == name]
    if not found:
        raise UnknownModelError(
            f"no target serves {name}; there is {', '.join(names)}", field="model"
        )
    return [target for target in found if _reads_like(target[1], found[0][1])]


def _reads_like(one: KnownModel, other: KnownModel) -> bool:
    return (
        one.description.tokenizer_hash == other.description.tokenizer_hash
        and one.description.chat_template == other.description.chat_template
    )


def served_models(
    targets: Sequence[ServedTarget], drafters: Sequence[WorkerRecord]
) -> list[ServedModel]:
    """Return the models that can be asked for now, ordered by name."""
    ready = [target for target in targets if not target[0].report.is_draining]
    models = []
    for name in sorted({worker.registration.model for worker, _ in ready}):
        serving = [target for target in ready if target[0].registration.model == name]
        num_drafters = sum(
            not drafter.report.is_draining
            and any(fits(drafter.registration, worker.registration) for worker, _ in serving)
            for drafter in drafters
        )
        context_length = max(known.description.context_length for _, known in serving)
        models.append(ServedModel(name, context_length, len(serving), num_drafters))
    return models
