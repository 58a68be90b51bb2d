"""Settings of the coordinator (`TREEDRAFT_COORDINATOR__…`)."""

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from treedraft.settings import (
    CommaSeparated,
    Frozen,
    GrpcSettings,
    ServiceSettings,
    TelemetrySettings,
    TlsSettings,
)
from treedraft.text.tool_formats.formats import ToolFormats


class LimitSettings(Frozen):
    """What is let in."""

    max_sessions: int = Field(
        default=1024, ge=1, description="Requests that run at once; more of them wait."
    )
    max_waiting: int = Field(
        default=1024, ge=0, description="Requests that wait; more of them are refused."
    )
    max_prompt_tokens: int = Field(
        default=0, ge=0, description="Longest prompt; 0 leaves it to the model and its KV pool."
    )
    default_max_tokens: int = Field(
        default=0,
        ge=0,
        description="Length of an answer whose request names none; 0 takes what the context holds.",
    )
    max_unread_tokens: int = Field(
        default=4096,
        ge=1,
        description="Tokens a slow reader may leave unread; beyond them the log is no longer "
        "acknowledged, which makes the target pause that session.",
    )


class DoorSettings(Frozen):
    """Who is let in, and what is written down of it."""

    keys_file: str = Field(
        default="",
        description="TOML file of API keys, as hashes, and of tenants with their limits; read "
        "again when it changes. Empty lets everybody in, as one anonymous tenant.",
    )
    tenant_secret_file: str = Field(
        default="",
        description="File with a secret of at least 32 bytes, the same for all coordinators. It "
        "makes of a tenant's name the salt that keeps tenants apart in caches; with another one "
        "every tenant begins with empty caches. Needed with `keys_file`.",
    )
    audit_file: str = Field(
        default="",
        description="File to which a line of JSON is appended for each request that ended: tenant, "
        "model, counts of tokens, outcome, and never any text. Empty writes none.",
    )


class HttpSettings(Frozen):
    """The HTTP door: OpenAI's API. Certificates and keys are those of the gRPC door."""

    enabled: bool = Field(default=True, description="Whether HTTP is served at all.")
    console: bool = Field(default=True, description="Whether the console is served at `/console`.")
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address to listen on; `0.0.0.0` is everywhere, which wants TLS and API keys.",
    )
    port: int = Field(
        default=0, ge=0, le=65535, description="Port to listen on; 0 lets the system choose one."
    )
    advertise: str = Field(
        default="",
        description="`host:port`, or `host` alone for the bound port, that clients are told.",
    )
    address_file: str = Field(
        default="",
        description="Path of a file that gets `http://host:port` once the service listens. Empty "
        "writes none.",
    )
    max_body_mb: int = Field(
        default=4, ge=1, le=512, description="Largest body of a request, in MiB."
    )
    max_header_kb: int = Field(
        default=32, ge=4, le=1024, description="Largest head of a request, in KiB."
    )
    keep_alive_seconds: int = Field(
        default=30, ge=1, description="How long an idle connection is kept open."
    )
    heartbeat_seconds: float = Field(
        default=15.0,
        ge=0,
        description="Longest silence on a stream; then a comment line goes out, so that nobody on "
        "the way takes the connection for idle. A stream whose first token takes longer begins "
        "without it. 0 sends none.",
    )
    cors_origins: CommaSeparated = Field(
        default=(),
        description="Origins whose pages may ask from a browser, with commas between them; `*` "
        "is all. Empty allows none but the door's own.",
    )
    allowed_hosts: CommaSeparated = Field(
        default=(),
        description="Host names that requests may name, with commas between them; `*.` before a "
        "domain is all below it, `*` all there are. Empty: this machine's own names where the "
        "door listens on loopback without TLS and without API keys, which keeps out pages that "
        "rebind their name; all names otherwise.",
    )


class StoreSettings(Frozen):
    """How long things are kept."""

    session_ttl_seconds: float = Field(
        default=3600.0,
        gt=0,
        description="Prompt and tokens of a session are forgotten this long after the last write.",
    )
    lease_seconds: float = Field(
        default=10.0,
        gt=0,
        description="A session whose coordinator is silent for this long may be taken over.",
    )
    worker_ttl_seconds: float = Field(
        default=10.0, gt=0, description="A worker that is silent for this long is forgotten."
    )
    refresh_seconds: float = Field(
        default=1.0,
        gt=0,
        description="How often workers that announce themselves to other coordinators are read.",
    )
    log_interval_seconds: float = Field(
        default=0.05,
        ge=0,
        description="Pause between two writes of one session's log; tokens gather meanwhile.",
    )
    log_patience_seconds: float = Field(
        default=2.0,
        gt=0,
        description="How long the end of a text, or a token of rejection mode, waits for a store "
        "that is away.",
    )
    redis_timeout_seconds: float = Field(
        default=2.0, gt=0, description="Time for connecting to Redis and for each answer."
    )


class FailoverSettings(Frozen):
    """What becomes of a session whose target is gone, frozen or going away."""

    silence_seconds: float = Field(
        default=2.5,
        gt=0,
        description="A target whose stream brings no frame for this long, signs of life included, "
        "is given up and its sessions move. Keep it well above the targets' `heartbeat_seconds`.",
    )
    max_moves: int = Field(
        default=8, ge=0, description="How often one session may move; then it fails. 0: never."
    )
    wait_seconds: float = Field(
        default=60.0,
        ge=0,
        description="How long a session waits for a target to move to, if there is none, and for "
        "a session store that is away; then it fails.",
    )
    max_at_once: int = Field(
        default=16,
        ge=1,
        description="Sessions that move at once; the others wait for their turn. Each costs its "
        "new target a prefill of prompt and output.",
    )
    turn_seconds: float = Field(
        default=5.0,
        gt=0,
        description="A session's turn to move ends with its first new token, or after this.",
    )


class CoordinatorSettings(ServiceSettings):
    """Everything the coordinator can be told."""

    model_config = SettingsConfigDict(env_prefix="TREEDRAFT_COORDINATOR__")

    redis: str = Field(
        default="",
        description="`redis://…` of the session store; empty keeps sessions in this process.",
    )
    coordinator_id: str = Field(
        default="", description="Stable name; empty draws one from host name and chance."
    )
    drafters_per_session: int = Field(
        default=2, ge=0, description="Drafters named to the target for each session."
    )
    sleeping_models: CommaSeparated = Field(
        default=(),
        description="Models that are served even while no target runs: asking for one answers "
        "MODEL_ASLEEP, and the autoscaler starts a target. With commas between them.",
    )
    tool_formats: CommaSeparated = Field(
        default=(),
        description="`MODEL=FORMAT` for models whose chat template does not show how they write "
        "tool calls, with commas between them; `*` is every model. Formats are `hermes`, "
        "`llama3_json` and `mistral`.",
    )
    describe_timeout_seconds: float = Field(
        default=10.0, gt=0, description="Time for asking a new target what it serves."
    )
    heartbeat_seconds: float = Field(
        default=1.0,
        gt=0,
        description="Longest silence on a client's stream; then an empty message goes out, so that "
        "a client can tell a coordinator that waits from one that is frozen or cut off.",
    )
    disconnect_grace_seconds: float = Field(
        default=10.0,
        ge=0,
        description="How long a session whose client broke off goes on, to be resumed; then it is "
        "cancelled. 0 cancels at once. Who wants no more says so with `Cancel`.",
    )
    drain_seconds: float = Field(
        default=30.0, ge=0, description="Time that running requests get when the service stops."
    )
    door: DoorSettings = DoorSettings()
    limits: LimitSettings = LimitSettings()
    store: StoreSettings = StoreSettings()
    failover: FailoverSettings = FailoverSettings()
    grpc: GrpcSettings = GrpcSettings()
    http: HttpSettings = HttpSettings()
    tls: TlsSettings = Field(default_factory=TlsSettings)
    telemetry: TelemetrySettings = TelemetrySettings()

    @field_validator("tool_formats")
    @classmethod
    def _check_tool_formats(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        ToolFormats(given)
        return given
