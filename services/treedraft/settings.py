"""Setting groups that the services share, and how they are read.

Every service has one frozen settings class built from groups. A setting is
given by its environment variable, the groups joined with two underscores
(`TREEDRAFT_TARGET__GRPC__PORT=50051`), or by the code that constructs the
class; nothing rewrites settings after the start.

That no variable is misspelt is for `environment` to check.
"""

import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

DELIMITER = "__"


class Frozen(BaseModel):
    """Base of all setting groups: frozen, and unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ServiceSettings(BaseSettings):
    """Base of the settings of one service; subclasses add an `env_prefix`."""

    model_config = SettingsConfigDict(
        env_nested_delimiter=DELIMITER,
        frozen=True,
        extra="forbid",
    )


def _split_commas(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)]
"""Several strings; in an environment variable, with commas between them."""


class GrpcSettings(Frozen):
    """Where a service listens and what it allows its callers."""

    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address to listen on. The default is reachable from this machine only; "
        "`0.0.0.0` listens everywhere, which wants TLS and, at the coordinator, API keys.",
    )
    port: int = Field(
        default=0, ge=0, le=65535, description="Port to listen on; 0 lets the system choose one."
    )
    advertise: str = Field(
        default="",
        description="`host:port`, or `host` alone for the bound port, that others dial. Empty is "
        "the bound address, with this machine's name in place of a wildcard.",
    )
    endpoint_file: str = Field(
        default="",
        description="Path of a file that gets the advertised endpoint once the service listens, "
        "so that a supervisor learns a port that the system chose. Empty writes none.",
    )
    max_message_mb: int = Field(
        default=4,
        ge=1,
        le=512,
        description="Largest message accepted, in MiB. 4 hold a prompt of a million tokens; more "
        "would let one caller take the memory of all.",
    )
    max_concurrent_streams: int = Field(
        default=1024,
        ge=1,
        description="Calls that one connection may have open; more wait at the caller.",
    )
    reflection: bool = Field(
        default=True, description="Whether tools may ask which services there are."
    )
    health_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="Port of a second listener that answers health alone, in plaintext whatever "
        "`tls` says: for a supervisor whose probes show no certificate. 0 has none.",
    )
    grace_seconds: float = Field(
        default=10.0,
        ge=0,
        description="Time that running calls get to end when the service stops, in seconds. "
        "Keep it below the supervisor's own patience.",
    )


class TlsSettings(ServiceSettings):
    """Certificates of this process. One group for all services and for clients.

    Its variables are `TREEDRAFT_TLS__CA` and so on; `TREEDRAFT_TARGET__TLS__CA`
    is for the target alone. TLS is spoken, in both directions, if `ca` is set.
    """

    model_config = SettingsConfigDict(env_prefix="TREEDRAFT_TLS__")

    ca: str = Field(
        default="",
        description="PEM file with the certificates of the authorities whose word on a peer is "
        "taken. Empty speaks plaintext.",
    )
    certificate: str = Field(
        default="",
        description="PEM file with the certificate of this process and the chain below the "
        "authority. A server needs one; a client does where the server demands it.",
    )
    key: str = Field(default="", description="PEM file with the certificate's private key.")
    require_client_certificate: bool = Field(
        default=False,
        description="Whether a server refuses callers without a certificate of the authority.",
    )
    server_name: str = Field(
        default="",
        description="Name that the certificates of dialled servers carry; empty expects the host "
        "that was dialled.",
    )
    service_names: CommaSeparated = Field(
        default=(),
        description="Names, one of which a certificate must carry to announce a worker, to run "
        "sessions on a target or to exchange trees with a drafter. Set it where clients have "
        "certificates of the same authority; empty takes any certificate.",
    )

    @property
    def is_spoken(self) -> bool:
        """Whether any certificate is named; with some missing, it is an error to start."""
        return bool(self.ca or self.certificate or self.key or self.require_client_certificate)


class TelemetrySettings(Frozen):
    """Where traces, metrics and logs go."""

    otlp_endpoint: str = Field(
        default="",
        description="OTLP/gRPC collector as `http://host:port`. Empty keeps spans in the local "
        "store.",
    )
    sample_ratio: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Share of requests that are traced, drawn by lot where they begin. A round of "
        "a traced request costs about 0.1 ms more.",
    )
    slow_seconds: float = Field(
        default=10.0,
        ge=0,
        description="A request that takes longer than this, or fails, is traced although it was "
        "not drawn; 0 traces those alone that were.",
    )
    store_path: str = Field(
        default="",
        description="SQLite file of the local span store, shared by all services of a machine; "
        "empty takes the one in the cache folder.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log lines that are written."
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="`console` for people, `json` for collectors."
    )
    metrics_host: str = Field(
        default="",
        description="Address of the Prometheus endpoint; empty is that of gRPC, which is this "
        "machine alone unless told otherwise.",
    )
    metrics_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="Port of the Prometheus endpoint; 0 serves none.",
    )


class WorkerSettings(Frozen):
    """Who a worker is, and to whom it announces itself."""

    worker_id: str = Field(
        default="",
        max_length=128,
        description="Stable name of this worker; empty makes one of host name, role and a random "
        "part, which is new at each start.",
    )
    pool: str = Field(
        default="",
        max_length=64,
        pattern=r"^[\w.-]*$",
        description="Name of the workers that are set up like this one. New sessions of a model "
        "are shared out among its pools of targets by weight, and among the pools of its "
        "drafters.",
    )
    weight: float = Field(
        default=1.0,
        ge=0,
        le=1e6,
        description="Share of its pool until somebody sets another (`treedraft rollout`); 0 gets "
        "no new session.",
    )
    coordinators: CommaSeparated = Field(
        default=(),
        description="`host:port` of each coordinator to announce this worker to, with commas "
        "between them. With a common store one of them is enough.",
    )
    report_interval_seconds: float = Field(
        default=1.0,
        gt=0,
        description="Seconds between two reports of load; placement is as fresh as this.",
    )

    def resolve_id(self, role: str) -> str:
        """Return the configured name, or a new one for a worker of this role."""
        return self.worker_id or f"{socket.gethostname()}-{role}-{secrets.token_hex(4)}"


FileStamp = tuple[int, int, int]


def file_stamp(path: str) -> FileStamp:
    """Return what changes when a file does; a file that cannot be seen has a stamp, too."""
    try:
        status = Path(path).stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_ino, status.st_mtime_ns, status.st_size)


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder for weights and traces; it may not exist yet.

    `$TREEDRAFT_CACHE`, else `treedraft` in `$XDG_CACHE_HOME` or `~/.cache`. A
    relative XDG_CACHE_HOME is ignored, as its specification demands.
    """
    if own := environ.get("TREEDRAFT_CACHE"):
        return Path(own).expanduser()
    xdg = Path(environ.get("XDG_CACHE_HOME", ""))
    base = xdg if xdg.is_absolute() else Path("~/.cache").expanduser()
    return base / "treedraft"
