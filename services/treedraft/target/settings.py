"""Settings of the target service (`TREEDRAFT_TARGET__…`)."""

from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from treedraft.settings import (
    Frozen,
    GrpcSettings,
    ServiceSettings,
    TelemetrySettings,
    TlsSettings,
    WorkerSettings,
)


class KVSettings(Frozen):
    """The paged KV pool."""

    tokens: int = Field(
        default=65536,
        ge=64,
        description="Tokens the pool holds, over all sessions. This bounds its memory: a token "
        "takes 46 KB in fp32 of the default model, so 3 GB in all; on a CPU as it is first used.",
    )
    block_size: int = Field(
        default=16, ge=1, le=256, description="Tokens per page, the unit of prefix sharing."
    )


class BudgetSettings(Frozen):
    """How many drafted nodes a pass may hold."""

    mode: Literal["goodput", "fixed"] = Field(
        default="goodput",
        description="`goodput` weighs each node's survival against the measured cost of a pass; "
        "`fixed` always takes the best `max_nodes` nodes.",
    )
    max_nodes: int = Field(
        default=32, ge=0, le=256, description="Nodes per session in one pass, at most."
    )
    max_depth: int = Field(
        default=16, ge=0, le=64, description="Depth of a tree in one pass, at most."
    )
    max_step_nodes: int = Field(
        default=256, ge=0, description="Nodes in one pass over all sessions, at most."
    )

    @property
    def has_room(self) -> bool:
        """Whether a pass may hold any drafted node."""
        return min(self.max_nodes, self.max_depth, self.max_step_nodes) > 0


class PatienceSettings(Frozen):
    """How long a step may wait for drafts that are on their way."""

    enabled: bool = Field(
        default=True, description="Whether to wait at all; without, a miss costs a plain pass."
    )
    takes_turns: bool = Field(
        default=False,
        description="Whether drafters compute on the cores or the accelerator of the target: it "
        "then waits until they rest, and they weigh for it what another step of theirs brings.",
    )
    is_synchronous: bool = Field(
        default=False,
        description="Whether each step asks the drafters and waits until all of them rest, "
        "whatever it takes: the classic exchange, kept to measure against.",
    )
    max_pass_share: float = Field(
        default=2.0,
        ge=0.0,
        le=10.0,
        description="The longest wait before a step, as a share of the time that a pass without "
        "drafts takes. How long it pays to wait is measured; this only bounds it.",
    )


class GateSettings(Frozen):
    """When drafting is left alone because it does not pay at the present load."""

    enabled: bool = Field(
        default=True, description="Whether to measure that at all; without, drafters always work."
    )
    forecast: bool = Field(
        default=True,
        description="Whether a load begins closed where the measured cost of rows and what drafts "
        "brought elsewhere say that they cannot pay.",
    )
    trial_steps: float = Field(
        default=8.0,
        gt=0,
        description="What drafting may lose at one session before it is closed, in plain steps; at "
        "a load of more the root of their number less, since more texts say more.",
    )
    session_trial_tokens: float = Field(
        default=5.0,
        gt=0,
        description="What drafting may lose one session, in tokens that its share of the time "
        "would have made, before that one is left alone for a while.",
    )
    allowance: float = Field(
        default=0.01,
        ge=0.0,
        le=1.0,
        description="Share of the time that may be lost to trying again: after a trial that "
        "failed, the next one comes when this share has added up to half a first one, after the "
        "first at one or two sessions sooner. Where a forecast says that it will fail, a tenth "
        "of this.",
    )
    max_gain_steps: float = Field(
        default=24.0,
        gt=0,
        description="What drafting that pays may save up at one session, in plain steps: how long "
        "it may then fail before it is closed; less at a load of more, likewise.",
    )


class FirstTokenSettings(Frozen):
    """When a first token is due, and so whose prompt is computed first under overload."""

    seconds: float = Field(
        default=0.0,
        ge=0.0,
        description="A request whose first token cannot come within so long is refused "
        "(FIRST_TOKEN_LATE) instead of keeping those waiting that can be in time. 0 refuses none.",
    )
    prompt_factor: float = Field(
        default=3.0,
        ge=0.0,
        description="Long prompts may take longer: so many times what they take at an idle target.",
    )


class DraftLinkSettings(Frozen):
    """How the target deals with drafters."""

    dial_timeout_seconds: float = Field(
        default=5.0, gt=0, description="Time for connecting and shaking hands."
    )
    max_backoff_seconds: float = Field(
        default=5.0, gt=0, description="Longest pause before a drafter is dialled again."
    )
    silence_seconds: float = Field(
        default=1.0,
        gt=0,
        description="A drafter that was told of sessions or tokens and sends nothing for this long "
        "is left; its sessions go on with another one, or with plain steps.",
    )
    refusal_seconds: float = Field(
        default=60.0,
        gt=0,
        description="Pause after a drafter of another tokenizer or one that sent what no tree "
        "can be.",
    )
    idle_seconds: float = Field(
        default=120.0,
        gt=0,
        description="A drafter that is down and that no session names is not dialled after this.",
    )
    credit_nodes: int = Field(
        default=8192, ge=64, description="Nodes a drafter may have on the way, all sessions."
    )
    max_frame_nodes: int = Field(
        default=4096, ge=1, description="Nodes in one frame; a larger frame ends the link."
    )
    max_queued_frames: int = Field(
        default=512, ge=1, description="Frames waiting for a slow drafter before it is dropped."
    )
    max_unread_frames: int = Field(
        default=256,
        ge=1,
        description="Frames of a drafter waiting for the engine; no more is read.",
    )
    max_live_nodes: int = Field(
        default=512, ge=1, description="Living nodes kept per session; more are dropped."
    )


class TargetSettings(ServiceSettings):
    """Everything the target service can be told."""

    model_config = SettingsConfigDict(env_prefix="TREEDRAFT_TARGET__")

    model: str = Field(
        default="default", description="Hub id, folder or .gguf file; `default` fetches SmolLM2."
    )
    model_name: str = Field(
        default="", description="Name that clients ask for; empty takes the model's own."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="float32", description="Numbers the model computes in; fp32 has the fewest ties."
    )
    weights: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        default="auto",
        description="How linear layers hold their weights where the native decoder runs, in "
        "float32 on a CPU: `auto` is bfloat16 for weights that are bfloat16 numbers anyway, "
        "else float32. "
        "Smaller ones are read faster and change what the model says, as rounding does.",
    )
    device: str = Field(default="auto", description="`cpu`, `cuda`, `cuda:1` or `auto`.")
    num_threads: int = Field(
        default=0, ge=0, description="CPU threads of the model; 0 leaves it to torch."
    )
    max_sessions: int = Field(
        default=256, ge=1, description="Sessions that take part in a pass at once."
    )
    max_waiting: int = Field(
        default=1024, ge=1, description="Sessions waiting for memory; more are refused."
    )
    prefill_chunk: int = Field(
        default=256,
        ge=1,
        description="Prompt tokens in one pass, over all sessions, at most.",
    )
    max_stall_steps: float = Field(
        default=2.0,
        gt=0,
        description="How much longer a pass may take for the prompts in it while others wait for "
        "their next token, in passes without prompts, by what rows are measured to take.",
    )
    max_unlogged_tokens: int = Field(
        default=4096,
        ge=0,
        description="A session that is this far ahead of its log pauses until the log catches up; "
        "0 logs every round before the next one.",
    )
    drain_seconds: float = Field(
        default=30.0, ge=0, description="Time that running sessions get when the service stops."
    )
    watchdog_seconds: float = Field(
        default=60.0,
        gt=0,
        description="A step that takes longer hangs: the target says that it does not serve and "
        "ends, to be started again; its sessions go on elsewhere. Well above the longest pass.",
    )
    heartbeat_seconds: float = Field(
        default=0.5,
        gt=0,
        description="Longest silence on a coordinator's stream; then an empty frame goes out. Keep "
        "it well below the coordinator's `failover.silence_seconds`.",
    )
    first_token: FirstTokenSettings = FirstTokenSettings()
    kv: KVSettings = KVSettings()
    budget: BudgetSettings = BudgetSettings()
    patience: PatienceSettings = PatienceSettings()
    gate: GateSettings = GateSettings()
    drafting: DraftLinkSettings = DraftLinkSettings()
    grpc: GrpcSettings = GrpcSettings()
    tls: TlsSettings = Field(default_factory=TlsSettings)
    telemetry: TelemetrySettings = TelemetrySettings()
    worker: WorkerSettings = WorkerSettings()
