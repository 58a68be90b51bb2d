"""What docs/security.md says of the code as a whole."""

import ast
import asyncio
import inspect
from pathlib import Path

from structlog.testing import capture_logs
from tests.unit.coordinator.cluster import a_cluster, ask
from tests.unit.coordinator.support import FakeTarget, encode, output

import treedraft
from treedraft.coordinator.api_keys import key_line, new_key
from treedraft.coordinator.generation import Coordinator
from treedraft.core.generation import GenerateQuery
from treedraft.core.sampling import SamplingParameters
from treedraft.core.session import FinishReason
from treedraft.rpc.coordinator_client import CoordinatorClient

_PACKAGE = Path(treedraft.__file__).parent
# They run code that was written by whoever wrote the bytes.
_FORBIDDEN = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
_BARE = {"eval", "exec"}


def test_nothing_is_unpickled():
    found = []
    for path in _PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if what := _opens_a_door(node):
                found.append(f"{path.relative_to(_PACKAGE)}:{node.lineno}: {what}")
    assert found == []


def _opens_a_door(node: ast.AST) -> str:
    match node:
        case ast.ImportFrom(module=str(module)) if module.split(".")[0] in _FORBIDDEN:
            return module
        case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in _FORBIDDEN:
            # The name of what a checked load raises is no load.
            return "" if attribute == "UnpicklingError" else f"{name}.{attribute}"
        case ast.Call(func=ast.Name(id=name)) if name in _BARE:
            return name
        case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load"), keywords=given):
            return "" if _says(given, "weights_only", True) else "torch.load"
        case ast.Call(func=ast.Attribute(value=ast.Name(id="np"), attr="load"), keywords=given):
            return "np.load" if _says(given, "allow_pickle", True) else ""
    return ""


def _says(keywords: list[ast.keyword], name: str, value: bool) -> bool:
    return any(
        one.arg == name and isinstance(one.value, ast.Constant) and one.value.value is value
        for one in keywords
    )


def test_the_scan_finds_what_it_looks_for():
    doors = (
        "from pickle import loads",
        "import pickle; pickle.loads(b'')",
        "torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
    )
    for text in doors:
        assert any(_opens_a_door(node) for node in ast.walk(ast.parse(text))), text


def test_session_ids_cannot_be_guessed():
    draw = inspect.signature(Coordinator).parameters["new_session_id"].default
    drawn = {draw() for _ in range(2000)}
    assert len(drawn) == 2000
    # 22 signs of 64 are 132 bits, and each place takes all of them.
    assert min(map(len, drawn)) >= 22
    assert all(len({one[place] for one in drawn}) > 55 for place in range(22))


def _door(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    keys = {name: new_key() for name in ("acme", "other")}
    lines = ["[keys]", *(key_line(key, name) for name, key in keys.items())]
    (folder / "keys.toml").write_text("\n".join(lines))
    (folder / "secret").write_text("0123456789abcdef" * 2)
    return keys, {
        "keys_file": str(folder / "keys.toml"),
        "tenant_secret_file": str(folder / "secret"),
    }


async def test_a_tenant_cannot_cancel_anothers_session_and_no_log_has_keys_or_text(tmp_path):
    keys, door = _door(tmp_path)
    with capture_logs() as logs:
        async with a_cluster(door=door) as cluster:
            clients = {n: CoordinatorClient(cluster.endpoint, api_key=k) for n, k in keys.items()}
            for client in clients.values():
                cluster.stack.push_async_callback(client.close)
            cluster.client = clients["acme"]
            target = FakeTarget()
            await cluster.add_target(target)
            query = GenerateQuery(text="zebra crossing", sampling=SamplingParameters(seed=3))
            reading = asyncio.create_task(ask(cluster.client, query))
            spec = await target.session()
            # As much of an answer as for one that never was.
            await clients["other"].cancel(spec.session_id)
            await clients["other"].cancel("nobody")
            target.say(output(spec, 0, encode("giraffe"), FinishReason.STOP))
            events = await reading
            assert events[-1].reason is FinishReason.STOP
            assert target.cancelled == []
    said = repr(logs)
    assert logs
    for secret in (*keys.values(), "zebra", "giraffe", "0123456789abcdef"):
        assert secret not in said
    assert ", ".join(map(str, encode("zebra"))) not in said
