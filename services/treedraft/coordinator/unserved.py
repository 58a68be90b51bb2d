"""Requests for models that nobody serves at the moment, counted for whoever can wake them.

A pool may be scaled down to nothing. Then the request that finds no target is
the only sign that one is wanted: it is refused with a reason that says to come
again, and the count of such refusals is what the autoscaler starts a target for.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from treedraft.coordinator.model_index import ServedTarget, find_targets
from treedraft.core.errors import UnavailableError, UnknownModelError

# Names come from callers; beyond so many different ones they count without a name.
_MAX_NAMES = 64


class UnservedModels:
    """Finds targets, and counts the requests that found none."""

    def __init__(self, sleeping: Collection[str] = ()) -> None:
        """Take models of the names `sleeping` for served, though no target may run."""
        self._sleeping = frozenset(sleeping)
        self._counts: Counter[str] = Counter()

    @property
    def counts(self) -> Mapping[str, int]:
        """Requests refused so far by the model that they named; empty for none."""
        return dict(self._counts)

    def find_targets(self, name: str, targets: Sequence[ServedTarget]) -> list[ServedTarget]:
        """Return the targets of a model as `model_index.find_targets` does.

        Raises:
            UnavailableError: nothing is served (NO_TARGET), or the model sleeps
                (MODEL_ASLEEP): come again in a minute or two.
            UnknownModelError: there is no such model.
            InvalidRequestError: no name, and several models (MODEL_REQUIRED).
        """
        try:
            return find_targets(name, targets)
        except UnavailableError:
            self._count(name)
            raise
        except UnknownModelError as error:
            if name not in self._sleeping:
                raise
            self._count(name)
            raise UnavailableError(
                f"{name} has no target at the moment; one is being asked for",
                reason="MODEL_ASLEEP",
            ) from error

    def _count(self, name: str) -> None:
        is_known = name in self._counts or len(self._counts) < _MAX_NAMES
        self._counts[name if is_known else ""] += 1
