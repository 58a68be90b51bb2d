"""Write the pages and files that are made from code, or check that they are up to date.

    python scripts/generate_docs.py            write
    python scripts/generate_docs.py --check    compare; exit 1 on a difference

They are committed, so that they can be read where they lie.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from dashboards import dashboards
from grpc_page import grpc_page
from metrics_page import metrics_page
from openapi_page import openapi_page

ROOT = Path(__file__).resolve().parent.parent


def pages() -> Mapping[str, str]:
    """Return what every file should hold."""
    folder = "deploy/observability/dashboards"
    return {
        "docs/metrics.md": metrics_page(),
        "docs/api/grpc.md": grpc_page(),
        "docs/api/openapi.json": openapi_page(),
        **{f"{folder}/{name}": text for name, text in dashboards().items()},
    }


def main() -> int:
    """Write or check; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 on drift")
    is_check = parser.parse_args().check
    changed = {name: text for name, text in pages().items() if read(name) != text}
    for name, text in changed.items():
        if is_check:
            print(f"{name} is not what the code says; run `make docs`", file=sys.stderr)
            continue
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"wrote {name}")
    return 1 if is_check and changed else 0


def read(name: str) -> str:
    """Return what a file holds, nothing if it is not there."""
    path = ROOT / name
    return path.read_text(encoding="utf-8") if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
