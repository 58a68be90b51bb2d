"""Certificates: read from files, checked before use, read anew when they change.

A server looks at its files at each handshake and takes new ones over without a
restart; a file that is broken meanwhile leaves the old ones in place. A client
reads its files whenever it dials. gRPC itself says of a bad file no more than
that it could not bind, so files are checked here, with the interpreter's own
TLS, and what is wrong gets a reason:

TLS_INCOMPLETE, TLS_FILE_UNREADABLE, TLS_FILE_INVALID, TLS_KEY_MISMATCH.
"""

import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import grpc
import structlog

from treedraft.core.errors import InvalidRequestError, PermissionDeniedError, UnavailableError
from treedraft.settings import FileStamp, TlsSettings, file_stamp

TLS_INCOMPLETE = "TLS_INCOMPLETE"
TLS_FILE_UNREADABLE = "TLS_FILE_UNREADABLE"
TLS_FILE_INVALID = "TLS_FILE_INVALID"
TLS_KEY_MISMATCH = "TLS_KEY_MISMATCH"
NOT_A_SERVICE = "NOT_A_SERVICE"

_BETWEEN_SERVICES = (
    "/treedraft.v1.TargetService/",
    "/treedraft.v1.DraftService/",
    "/treedraft.v1.CoordinatorService/AnnounceWorker",
)
_NAME_PROPERTIES = ("x509_subject_alternative_name", "x509_common_name")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """What the files hold, in PEM; certificate and key are empty for a client without."""

    ca: bytes
    certificate: bytes
    key: bytes


def read_material(tls: TlsSettings, *, is_server: bool) -> TlsMaterial:
    """Read and check the files of settings that speak TLS.

    Raises:
        InvalidRequestError: what is wrong and where; see the module for reasons.
    """
    _check_settings(tls, is_server=is_server)
    material = TlsMaterial(
        ca=_read("ca", tls.ca),
        certificate=_read("certificate", tls.certificate) if tls.certificate else b"",
        key=_read("key", tls.key) if tls.key else b"",
    )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(tls.ca)
    except ssl.SSLError as error:
        raise _wrong("ca", f"{tls.ca} holds no certificate", TLS_FILE_INVALID) from error
    if tls.certificate:
        _check_pair(tls)
    return material


def _check_settings(tls: TlsSettings, *, is_server: bool) -> None:
    if not tls.ca:
        raise _wrong("ca", "a certificate without an authority", TLS_INCOMPLETE)
    if bool(tls.certificate) != bool(tls.key):
        missing = "key" if tls.certificate else "certificate"
        raise _wrong(missing, "certificate and key are given together", TLS_INCOMPLETE)
    if is_server and not tls.certificate:
        raise _wrong("certificate", "a server needs certificate and key", TLS_INCOMPLETE)
    if tls.service_names and not tls.require_client_certificate:
        message = "who has no certificate has no name"
        raise _wrong("require_client_certificate", message, TLS_INCOMPLETE)


def _check_pair(tls: TlsSettings) -> None:
    def no_password() -> str:
        raise _wrong("key", f"{tls.key} is encrypted", TLS_FILE_INVALID)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(tls.certificate, tls.key, password=no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            message = f"the key in {tls.key} is not that of {tls.certificate}"
            raise _wrong("key", message, TLS_KEY_MISMATCH) from error
        message = f"{tls.certificate} and {tls.key} are no certificate and key in PEM"
        raise _wrong("certificate", message, TLS_FILE_INVALID) from error


def _read(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise _wrong(name, message, TLS_FILE_UNREADABLE) from error


def _wrong(name: str, message: str, reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"tls.{name}: {message}", field=f"tls.{name}", reason=reason)


def channel_credentials(tls: TlsSettings) -> grpc.ChannelCredentials:
    """Return what a channel dials with, from the files as they are now.

    Raises:
        UnavailableError: the files cannot be used at this moment.
    """
    try:
        material = read_material(tls, is_server=False)
    except InvalidRequestError as error:
        raise UnavailableError(error.message, reason=error.reason) from error
    return grpc.ssl_channel_credentials(
        material.ca, material.key or None, material.certificate or None
    )


def server_credentials(tls: TlsSettings) -> grpc.ServerCredentials:
    """Return what a server listens with; it follows the files as they change.

    Raises:
        InvalidRequestError: the files cannot be used.
    """
    files = _WatchedFiles(tls)
    # The stubs do not know that None means unchanged.
    fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", files.read_if_changed)
    return grpc.dynamic_ssl_server_credentials(files.read(), fetch, tls.require_client_certificate)


class _WatchedFiles:
    """The files of a server. gRPC asks for them at each handshake, on threads of its own."""

    def __init__(self, tls: TlsSettings) -> None:
        self._tls = tls
        self._lock = threading.Lock()
        self._stamp: tuple[FileStamp, ...] | None = None

    def read(self) -> grpc.ServerCertificateConfiguration:
        # Before reading: what changes in between is read again next time.
        self._stamp = self._look()
        material = read_material(self._tls, is_server=True)
        pairs = [(material.key, material.certificate)]
        return grpc.ssl_server_certificate_configuration(pairs, material.ca)

    def read_if_changed(self) -> grpc.ServerCertificateConfiguration | None:
        with self._lock:
            if self._look() == self._stamp:
                return None
            try:
                configuration = self.read()
            except InvalidRequestError as error:
                _log.error("certificates not taken over", reason=error.reason, why=error.message)
                return None
            _log.info("certificates taken over", certificate=self._tls.certificate)
            return configuration

    def _look(self) -> tuple[FileStamp, ...]:
        return _stamp(self._tls)


def server_context(tls: TlsSettings) -> ssl.SSLContext:
    """Return what a server other than gRPC's listens with; it follows the files, too.

    Raises:
        InvalidRequestError: the files cannot be used.
    """
    stamp = _stamp(tls)
    current = _make_context(tls)

    def follow(socket: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _: ssl.SSLContext) -> None:
        nonlocal stamp, current
        if _stamp(tls) != stamp:
            stamp = _stamp(tls)
            try:
                current = _make_context(tls)
            except InvalidRequestError as error:
                _log.error("certificates not taken over", reason=error.reason, why=error.message)
            else:
                _log.info("certificates taken over", certificate=tls.certificate)
        socket.context = current

    listening = current
    listening.sni_callback = follow
    return listening


def _make_context(tls: TlsSettings) -> ssl.SSLContext:
    read_material(tls, is_server=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    context.load_verify_locations(tls.ca)
    if tls.require_client_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _stamp(tls: TlsSettings) -> tuple[FileStamp, ...]:
    return tuple(file_stamp(path) for path in (tls.ca, tls.certificate, tls.key))


def check_caller(
    method: str, context: grpc.aio.ServicerContext[Any, Any], service_names: Sequence[str]
) -> None:
    """Refuse a call that only services make, unless a certificate names the caller as one.

    Raises:
        PermissionDeniedError: NOT_A_SERVICE.
    """
    if not service_names or not method.startswith(_BETWEEN_SERVICES):
        return
    properties = context.auth_context()
    names = {name.decode() for key in _NAME_PROPERTIES for name in properties.get(key, ())}
    if names.isdisjoint(service_names):
        raise PermissionDeniedError(
            "the caller's certificate names no service of this deployment", reason=NOT_A_SERVICE
        )
