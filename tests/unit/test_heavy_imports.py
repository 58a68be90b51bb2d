"""Torch takes seconds to import and hundreds of megabytes: who computes nothing does without."""

import subprocess
import sys
from pathlib import Path

_CODE = """
import sys
from typer.testing import CliRunner
import treedraft.autoscaler.__main__
import treedraft.bench.hits
import treedraft.bench.links.run
import treedraft.bench.run
import treedraft.coordinator.__main__
import treedraft.draft.__main__
import treedraft.local_cluster.cluster
from treedraft.cli.app import make_app
from treedraft.inference.weights import resolve
shown = CliRunner().invoke(make_app(), ["--help"])
assert shown.exit_code == 0, shown.output
resolve(sys.argv[1])
print(*sorted({"torch", "transformers", "matplotlib"} & set(sys.modules)))
"""


def test_commands_doors_and_drafters_without_a_model_import_no_torch(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").touch()
    done = subprocess.run(
        [sys.executable, "-c", _CODE, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
