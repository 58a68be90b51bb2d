"""The gRPC client of the docs, with code generated from the published protos alone."""

import asyncio
import sys
from pathlib import Path

from tests.unit.coordinator.cluster import a_cluster
from tests.unit.coordinator.support import FakeTarget, says

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "grpc_client.py"


async def run(*command: str, folder: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_twenty_lines_and_the_protos_make_a_client(tmp_path):
    code = [line for line in EXAMPLE.read_text().split('"""')[2].splitlines() if line.strip()]
    assert len(code) <= 20
    protos = sorted(str(path) for path in (ROOT / "protos").rglob("*.proto"))
    outputs = [f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}"]
    compiler = (sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}")
    await run(*compiler, *outputs, *protos, folder=tmp_path)
    (tmp_path / "grpc_client.py").write_text(EXAMPLE.read_text())
    async with a_cluster() as cluster:
        await cluster.add_target(FakeTarget(script=says("wörld!")))
        # What was generated here goes before the installed package.
        start = "import sys; sys.path.insert(0, '.'); sys.argv = sys.argv[1:]; import runpy; "
        start += "runpy.run_path(sys.argv[0], run_name='__main__')"
        asked = (str(tmp_path / "grpc_client.py"), cluster.endpoint, "hello")
        assert await run(sys.executable, "-c", start, *asked, folder=tmp_path) == "wörld!\n"
