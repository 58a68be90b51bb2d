"""Pins images that others publish by digest: `make pin-bases`.

A tag can come to mean another image, a digest cannot. Which digest a tag has now only its
registry knows, so docker is asked for each image of the Dockerfile and of the compose files,
and the files are written anew, `name:tag@sha256:…`; the tag stays for people. The digest is
that of the index of all architectures. Run it again to take what the tags mean by then.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = (
    "deploy/docker/Dockerfile",
    "deploy/compose.yaml",
    "deploy/compose.observability.yaml",
)
_IMAGE = re.compile(r"(?P<image>docker\.io/[\w./-]+:[\w.-]+)(?:@sha256:[0-9a-f]{64})?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def main() -> int:
    """Pin all files; return the exit status."""
    if shutil.which("docker") is None:
        print("pin_bases.py: docker is not installed, and only it is asked", file=sys.stderr)
        return 1
    known: dict[str, str] = {}

    def digest(image: str) -> str:
        if image not in known:
            known[image] = ask_docker(image)
        return known[image]

    try:
        texts = {path: pin((ROOT / path).read_text(encoding="utf-8"), digest) for path in FILES}
    except LookupError as error:
        print(f"pin_bases.py: {error}", file=sys.stderr)
        return 1
    # Only now, so that a registry that fails half way leaves everything as it was.
    for path, text in texts.items():
        (ROOT / path).write_text(text, encoding="utf-8")
    for image, found in sorted(known.items()):
        print(f"{image}@{found}")
    return 0


def pin(text: str, digest: Callable[[str], str]) -> str:
    """Return a text whose images are pinned."""
    return _IMAGE.sub(lambda found: f"{found['image']}@{digest(found['image'])}", text)


def ask_docker(image: str) -> str:
    """Return the digest that a tag has now.

    Raises:
        LookupError: docker does not know.
    """
    command = ["docker", "buildx", "imagetools", "inspect", "--format", "{{.Manifest.Digest}}"]
    done = subprocess.run([*command, image], capture_output=True, text=True)
    said = done.stdout.strip()
    if done.returncode or not _DIGEST.fullmatch(said):
        raise LookupError(f"no digest for {image}: {done.stderr.strip() or said or 'no answer'}")
    return said


if __name__ == "__main__":
    sys.exit(main())
