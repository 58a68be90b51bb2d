"""The working folder of a distillation: what each stage made, and from what.

A stage has a folder and in it a manifest: the settings that shaped what it
makes, the fingerprints of the stages that it built on, and whether it is
finished. From that follows what to do when it is asked for again: nothing if
it is finished, go on if it was broken off, and refuse if its settings or its
inputs have changed, since hours of work are not thrown away unasked.

Invariant: a manifest is replaced as a whole, and says finished only after
everything else of the stage is on disk.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from treedraft.core.errors import InvalidRequestError, TreedraftError
from treedraft.training.files import replace_text

MANIFEST = "manifest.json"
REDO_FILE = "redo.json"
_FORMAT_VERSION = 1


class StageState(StrEnum):
    """How far a stage is."""

    MISSING = "missing"
    BEGUN = "begun"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class StageIdentity:
    """What a stage's result depends on: its settings and the stages before it."""

    settings: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """A hash that is equal for equal settings and inputs."""
        text = json.dumps([_plain(self.settings), dict(self.inputs)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is known of a stage on disk."""

    format_version: int
    fingerprint: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    is_finished: bool
    result: dict[str, Any]


class Workspace:
    """The folders of all stages under one folder."""

    def __init__(self, root: Path) -> None:
        """Use a folder; nothing is made before a stage begins."""
        self._root = root

    def folder(self, stage: str) -> Path:
        """Return where a stage keeps its things."""
        return self._root / stage

    def manifest(self, stage: str) -> Manifest | None:
        """Return the manifest of a stage, None if it never began.

        Raises:
            InvalidRequestError: reason WORKSPACE_CORRUPT.
        """
        path = self.folder(stage) / MANIFEST
        try:
            manifest = Manifest(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise _corrupt(path) from error
        if manifest.format_version != _FORMAT_VERSION:
            raise _corrupt(path)
        return manifest

    def is_changed(self, stage: str, identity: StageIdentity) -> bool:
        """Return whether what is there was made with other settings or from other inputs."""
        manifest = self.manifest(stage)
        return manifest is not None and manifest.fingerprint != identity.fingerprint

    def state(self, stage: str, identity: StageIdentity) -> StageState:
        """Return how far a stage is, if it is the same stage.

        Raises:
            InvalidRequestError: reason STAGE_CHANGED; what is there was made with
                other settings or from other inputs.
        """
        manifest = self.manifest(stage)
        if manifest is None:
            return StageState.MISSING
        if manifest.fingerprint != identity.fingerprint:
            raise InvalidRequestError(
                f"{self.folder(stage)} was made differently ({_difference(manifest, identity)}); "
                f"do it again with --redo {stage}, or use another folder",
                field=stage,
                reason="STAGE_CHANGED",
            )
        return StageState.FINISHED if manifest.is_finished else StageState.BEGUN

    def fingerprint_of(self, stage: str) -> str:
        """Return the fingerprint of a finished stage.

        Raises:
            TreedraftError: reason STAGE_MISSING; it is not finished.
        """
        manifest = self.manifest(stage)
        if manifest is None or not manifest.is_finished:
            raise TreedraftError(
                f"there is no finished stage `{stage}` in {self._root}; run it first",
                reason="STAGE_MISSING",
            )
        return manifest.fingerprint

    def begin(self, stage: str, identity: StageIdentity) -> None:
        """Note that a stage is under way."""
        self.folder(stage).mkdir(parents=True, exist_ok=True)
        self._write(stage, identity, is_finished=False, result={})

    def finish(self, stage: str, identity: StageIdentity, result: Mapping[str, Any]) -> None:
        """Note that everything of a stage is on disk, and figures about it."""
        self._write(stage, identity, is_finished=True, result=result)

    def discard(self, stages: Sequence[str]) -> None:
        """Remove everything of these stages."""
        for stage in stages:
            shutil.rmtree(self.folder(stage), ignore_errors=True)

    def begin_redo(self, stages: Sequence[str]) -> None:
        """Remove everything of these stages, unless a redo of just these was broken off."""
        path = self._root / REDO_FILE
        if path.is_file() and path.read_text(encoding="utf-8") == _redo_text(stages):
            return
        path.unlink(missing_ok=True)
        self.discard(stages)
        self._root.mkdir(parents=True, exist_ok=True)
        path.write_text(_redo_text(stages), encoding="utf-8")  # only now: they are gone

    def end_redo(self) -> None:
        """Note that nothing is under way: the next redo removes again."""
        (self._root / REDO_FILE).unlink(missing_ok=True)

    def _write(
        self, stage: str, identity: StageIdentity, *, is_finished: bool, result: Mapping[str, Any]
    ) -> None:
        manifest = Manifest(
            format_version=_FORMAT_VERSION,
            fingerprint=identity.fingerprint,
            settings=_plain(identity.settings),
            inputs=dict(identity.inputs),
            is_finished=is_finished,
            result=dict(result),
        )
        replace_text(self.folder(stage) / MANIFEST, json.dumps(asdict(manifest), indent=2) + "\n")


def _redo_text(stages: Sequence[str]) -> str:
    return json.dumps([str(stage) for stage in stages]) + "\n"


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as JSON has them, so that they compare with what was read."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(settings)))
    return plain


def _difference(manifest: Manifest, identity: StageIdentity) -> str:
    before = {**_flat(manifest.settings), **_flat(manifest.inputs)}
    now = {**_flat(_plain(identity.settings)), **_flat(dict(identity.inputs))}
    changed = sorted(name for name in before | now if before.get(name) != now.get(name))
    return ", ".join(f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in changed)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _corrupt(path: Path) -> InvalidRequestError:
    return InvalidRequestError(
        f"{path} cannot be read, or was written by another version", reason="WORKSPACE_CORRUPT"
    )
