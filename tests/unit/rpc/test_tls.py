"""Certificates on a real server: who gets in, who does not, and what is said about it."""

import asyncio
import socket
import ssl
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog
from tests.certificates import an_authority, replace_files
from tests.waiting import PATIENCE_SECONDS, patience

from treedraft.core.errors import (
    InvalidRequestError,
    TreedraftError,
    UnavailableError,
)
from treedraft.core.worker import WorkerRegistration, WorkerReport, WorkerRole
from treedraft.rpc.announcer import Announcer
from treedraft.rpc.coordinator_client import CoordinatorClient
from treedraft.rpc.server import RpcServer
from treedraft.rpc.tls import read_material
from treedraft.settings import GrpcSettings, TlsSettings
from treedraft.v1 import coordinator_service_pb2 as pb
from treedraft.v1 import coordinator_service_pb2_grpc as pb_grpc


class Door(pb_grpc.CoordinatorServiceServicer):
    """Lists no models, and notes whether a worker came in."""

    def __init__(self):
        self.announced = asyncio.Event()

    async def ListModels(self, request, context):  # noqa: N802 - the name is the RPC's
        return pb.ListModelsResponse()

    async def AnnounceWorker(self, request_iterator, context):  # noqa: N802
        async for _ in request_iterator:
            self.announced.set()
            yield pb.AnnounceWorkerResponse()


@pytest.fixture
def authority(tmp_path):
    return an_authority(tmp_path / "authority")


@asynccontextmanager
async def serving(tls, door=None):
    server = RpcServer(GrpcSettings(), [], tls)
    pb_grpc.add_CoordinatorServiceServicer_to_server(door or Door(), server.grpc)
    endpoint = await server.start()
    try:
        yield endpoint
    finally:
        await server.stop(0)


async def list_models(endpoint, tls):
    client = CoordinatorClient(endpoint, tls=tls)
    try:
        return await client.list_models(timeout_seconds=5)
    finally:
        await client.close()


async def refusal_of(endpoint, tls) -> TreedraftError:
    with pytest.raises(TreedraftError) as caught:
        await list_models(endpoint, tls)
    return caught.value


async def test_with_certificates_on_both_sides_one_gets_in(authority):
    server = authority.settings("server", require_client_certificate=True)
    async with serving(server) as endpoint:
        assert await list_models(endpoint, authority.settings("client")) == []


async def test_without_a_demand_the_authority_is_all_that_a_client_needs(authority):
    async with serving(authority.settings("server")) as endpoint:
        assert await list_models(endpoint, TlsSettings(ca=authority.ca)) == []


async def test_a_client_without_a_certificate_is_refused(authority):
    server = authority.settings("server", require_client_certificate=True)
    async with serving(server) as endpoint:
        error = await refusal_of(endpoint, TlsSettings(ca=authority.ca))
    assert isinstance(error, UnavailableError)
    assert error.reason == "TLS_HANDSHAKE_FAILED"
    assert "certificate" in error.message


async def test_a_client_of_another_authority_is_refused(authority, tmp_path):
    stranger = an_authority(tmp_path / "stranger").settings("client")
    server = authority.settings("server", require_client_certificate=True)
    async with serving(server) as endpoint:
        trusting = stranger.model_copy(update={"ca": authority.ca})
        assert (await refusal_of(endpoint, trusting)).reason == "TLS_HANDSHAKE_FAILED"


async def test_a_server_of_another_authority_is_not_believed(authority, tmp_path):
    stranger = an_authority(tmp_path / "stranger")
    async with serving(stranger.settings("server")) as endpoint:
        error = await refusal_of(endpoint, TlsSettings(ca=authority.ca))
    assert error.reason == "TLS_HANDSHAKE_FAILED"
    assert "authority" in error.message


async def test_a_server_of_another_name_is_not_believed_unless_the_name_is_expected(authority):
    certificate, key = authority.issue("server", "DNS:door.example")
    server = TlsSettings(ca=authority.ca, certificate=certificate, key=key)
    async with serving(server) as endpoint:
        error = await refusal_of(endpoint, TlsSettings(ca=authority.ca))
        assert error.reason == "TLS_HANDSHAKE_FAILED"
        assert "name" in error.message
        expecting = TlsSettings(ca=authority.ca, server_name="door.example")
        assert await list_models(endpoint, expecting) == []


async def test_plaintext_does_not_reach_a_server_that_speaks_tls(authority):
    async with serving(authority.settings("server")) as endpoint:
        error = await refusal_of(endpoint, None)
    assert error.reason == "TLS_HANDSHAKE_FAILED"
    assert "TLS" in error.message


async def test_tls_does_not_reach_a_server_that_speaks_plaintext(authority):
    async with serving(None) as endpoint:
        error = await refusal_of(endpoint, TlsSettings(ca=authority.ca))
    assert error.reason == "TLS_HANDSHAKE_FAILED"
    assert "does not speak TLS" in error.message


def served_name(endpoint, tls) -> str:
    """Return the common name of the certificate that a server shows in a new connection."""
    context = ssl.create_default_context(cafile=tls.ca)
    context.set_alpn_protocols(["h2"])
    host, _, port = endpoint.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) as raw,
        context.wrap_socket(raw, server_hostname=host) as secure,
    ):
        certificate = secure.getpeercert()
    return dict(field for part in certificate["subject"] for field in part)["commonName"]


def damage(path):
    Path(path).write_text("half a certificate")


async def test_a_new_certificate_is_taken_over_and_a_broken_one_is_not(authority):
    server = authority.settings("server")
    async with serving(server) as endpoint:
        assert await asyncio.to_thread(served_name, endpoint, server) == "server"
        replace_files(authority.issue("renewed"), (server.certificate, server.key))
        assert await asyncio.to_thread(served_name, endpoint, server) == "renewed"

        damage(server.certificate)
        with structlog.testing.capture_logs() as logs:
            assert await asyncio.to_thread(served_name, endpoint, server) == "renewed"
        assert [log["reason"] for log in logs] == ["TLS_FILE_INVALID"]
        assert await list_models(endpoint, TlsSettings(ca=authority.ca)) == []


async def test_a_new_authority_is_taken_over_by_server_and_clients(authority, tmp_path):
    server = authority.settings("server", require_client_certificate=True)
    client = authority.settings("client")
    async with serving(server) as endpoint:
        assert await list_models(endpoint, client) == []
        successor = an_authority(tmp_path / "successor")
        renewed = [*successor.issue("server"), *successor.issue("client"), successor.ca]
        used = (server.certificate, server.key, client.certificate, client.key, server.ca)
        replace_files(renewed, used)
        assert await list_models(endpoint, client) == []


def broken(authority, case):
    certificate, key = authority.issue("one")
    other = authority.issue("two")
    missing = str(authority.folder / "none.pem")
    locked = authority.folder / "folder.pem"
    locked.mkdir()
    text = authority.folder / "text.pem"
    text.write_text("no certificate")
    good = {"ca": authority.ca, "certificate": certificate, "key": key}
    return TlsSettings(
        **good
        | {
            "no authority": {"ca": ""},
            "no key": {"key": ""},
            "no certificate": {"certificate": ""},
            "client alone": {"certificate": "", "key": ""},
            "names without certificates": {"service_names": "target"},
            "missing": {"key": missing},
            "unreadable": {"ca": str(locked)},
            "authority is text": {"ca": str(text)},
            "certificate is text": {"certificate": str(text)},
            "key of another": {"key": other[1]},
        }[case]
    )


@pytest.mark.parametrize(
    ("case", "reason", "field"),
    [
        ("no authority", "TLS_INCOMPLETE", "tls.ca"),
        ("no key", "TLS_INCOMPLETE", "tls.key"),
        ("no certificate", "TLS_INCOMPLETE", "tls.certificate"),
        ("client alone", "TLS_INCOMPLETE", "tls.certificate"),
        ("names without certificates", "TLS_INCOMPLETE", "tls.require_client_certificate"),
        ("missing", "TLS_FILE_UNREADABLE", "tls.key"),
        ("unreadable", "TLS_FILE_UNREADABLE", "tls.ca"),
        ("authority is text", "TLS_FILE_INVALID", "tls.ca"),
        ("certificate is text", "TLS_FILE_INVALID", "tls.certificate"),
        ("key of another", "TLS_KEY_MISMATCH", "tls.key"),
    ],
)
async def test_a_server_does_not_start_with_files_that_cannot_work(authority, case, reason, field):
    with pytest.raises(InvalidRequestError) as caught:
        async with serving(broken(authority, case)):
            pass
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_an_encrypted_key_is_refused_instead_of_asking_the_terminal(authority):
    certificate, key = authority.issue("one")
    encrypted = str(authority.folder / "encrypted.key")
    command = ["openssl", "ec", "-in", key, "-aes256", "-passout", "pass:secret", "-out", encrypted]
    subprocess.run(command, check=True, capture_output=True)
    tls = TlsSettings(ca=authority.ca, certificate=certificate, key=encrypted)
    with pytest.raises(InvalidRequestError, match="encrypted"):
        read_material(tls, is_server=True)


async def test_a_client_says_which_file_it_cannot_use(authority):
    with pytest.raises(UnavailableError) as caught:
        CoordinatorClient("localhost:1", tls=TlsSettings(ca=str(authority.folder / "none.pem")))
    assert caught.value.reason == "TLS_FILE_UNREADABLE"
    assert "none.pem" in caught.value.message


WORKER = WorkerRegistration("w1", "i1", WorkerRole.TARGET, "h:1", "toy")


@asynccontextmanager
async def announcing(endpoint, tls):
    announcer = Announcer(endpoint, WORKER, WorkerReport, 0.05, tls=tls)
    task = asyncio.create_task(announcer.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_only_who_is_named_a_service_announces_itself(authority):
    names = {"require_client_certificate": True, "service_names": ("worker.treedraft",)}
    door, server = Door(), authority.settings("server", **names)
    worker_files = authority.issue("w", "DNS:worker.treedraft")
    worker = TlsSettings(ca=authority.ca, certificate=worker_files[0], key=worker_files[1])
    client = authority.settings("client")
    async with serving(server, door) as endpoint:
        assert await list_models(endpoint, client) == []  # this is not for services alone
        with structlog.testing.capture_logs() as logs:
            async with announcing(endpoint, client), patience():
                while not any(log.get("reason") == "NOT_A_SERVICE" for log in logs):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        assert not door.announced.is_set()
        async with announcing(endpoint, worker), patience():
            await door.announced.wait()


async def test_a_worker_takes_a_new_certificate_to_its_next_stream(authority):
    names = {"require_client_certificate": True, "service_names": ("worker.treedraft",)}
    door, worker = Door(), authority.settings("worker")
    async with serving(authority.settings("server", **names), door) as endpoint:
        with structlog.testing.capture_logs() as logs:
            async with announcing(endpoint, worker), patience():
                while not any(log.get("reason") == "NOT_A_SERVICE" for log in logs):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                renewed = authority.issue("renewed", "DNS:worker.treedraft")
                replace_files(renewed, (worker.certificate, worker.key))
                await door.announced.wait()
