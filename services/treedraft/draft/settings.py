"""Settings of the draft service (`TREEDRAFT_DRAFT__…`)."""

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


class GrowthSettings(Frozen):
    """How far a tree is grown ahead of its verdict."""

    max_live_nodes: int = Field(
        default=64,
        ge=1,
        le=512,
        description="Nodes that a session's tree may hold; a full tree waits for a commit. On a "
        "CPU of its own a drafter takes 320 unless told.",
    )
    max_depth: int = Field(
        default=16, ge=1, le=64, description="Depth of a tree under its root, at most."
    )
    num_children: int = Field(
        default=4,
        ge=1,
        le=16,
        description="Children that the model names for a node; they are told as they become "
        "likely. Where the native decoder runs on cores of its own, up to 16 unless told.",
    )
    num_siblings: int = Field(
        default=4,
        ge=1,
        le=16,
        description="Children that every expanded node gets in rejection mode, all or none, if "
        "`num_children` is not less.",
    )
    min_score: float = Field(
        default=-4.0,
        le=0.0,
        description="Log-probability of a path's survival below which nobody grows it on. On a CPU "
        "of its own a drafter takes -6 unless told.",
    )
    min_child_score: float = Field(
        default=-8.0,
        le=0.0,
        description="Log-probability of a path's survival below which a child that the model names "
        "is held back until the root has moved towards it. Where the target says what its tokens "
        "take, children are held back that bring less than they take to send, too.",
    )
    score_temperature: float = Field(
        default=1.0,
        gt=0.0,
        description="Divides the noised logits that scores are made of; above 1 a drafter is "
        "less sure of itself.",
    )
    max_rows_per_step: int = Field(
        default=32,
        ge=1,
        description="Rows of one pass of the draft model, over all sessions, prompts not counted.",
    )
    max_rows_per_session: int = Field(
        default=4,
        ge=1,
        description="Nodes of one session that a pass expands. More make a step longer and the "
        "way to the next depth slower. On a CPU of its own a drafter takes 12 unless told, "
        "or fewer where the host's part of a step would be long beside a token of the target.",
    )
    levels: int = Field(
        default=3,
        ge=1,
        le=8,
        description="Levels that trees grow by after a pass without a word from Python, where the "
        "native decoder runs on a CPU, or fused kernels on CUDA and few sessions take part. 1 asks "
        "for single passes.",
    )
    prefill_chunk: int = Field(
        default=256,
        ge=1,
        description="Prompt tokens in one pass, over all sessions; bounds how long a new prompt "
        "holds up the trees of the others.",
    )
    shares_device: bool = Field(
        default=False,
        description="Whether the model runs on the cores or the accelerator that the target runs "
        "on: then only steps that bring more than the target makes in their time are run.",
    )

    @property
    def siblings(self) -> int:
        """Children of each expanded node in rejection mode."""
        return min(self.num_children, self.num_siblings)

    def on_own_cores(self) -> "GrowthSettings":
        """Return how to grow where steps cost the target nothing; what was set stays."""
        wide = {name: n for name, n in _ON_OWN_CORES.items() if name not in self.model_fields_set}
        return self.model_copy(update=wide)


# Chosen by hits and drafts below them, see docs/links-and-load.md. A step may exceed the
# limit of living nodes by a pass of children, and targets hold 512.
_ON_OWN_CORES = {
    "num_children": 16,
    "max_live_nodes": 320,
    "max_rows_per_session": 12,
    "min_score": -6.0,
}


class RecentTrafficSettings(Frozen):
    """Text of ended sessions, kept in memory to be looked up in sessions of the same tenant."""

    enabled: bool = Field(
        default=True,
        description="Whether to keep the text of sessions that have ended. Off, lookup sees a "
        "session's own text alone.",
    )
    without_tenant: bool = Field(
        default=False,
        description="Whether sessions that name no tenant are one tenant's. Set it where all who "
        "may ask may see each other's text, as on a machine of one's own.",
    )
    max_tokens_per_tenant: int = Field(
        default=65_536,
        ge=1024,
        le=1_048_576,
        description="Tokens kept of one tenant; the oldest quarter goes when they are full. A "
        "token takes about 20 bytes.",
    )
    max_tokens: int = Field(
        default=1_048_576,
        ge=1024,
        description="Tokens kept in all; the tenant that came longest ago loses its oldest first.",
    )
    max_tenants: int = Field(
        default=256,
        ge=1,
        description="Tenants whose text, and how well drafts did for them, is kept; the one that "
        "came longest ago is forgotten.",
    )


class LookupSettings(Frozen):
    """Drafting by copying what followed the same words before."""

    enabled: bool = Field(default=True, description="Whether to look up at all.")
    recent: RecentTrafficSettings = RecentTrafficSettings()
    min_suffix: int = Field(
        default=2, ge=1, le=16, description="Shortest match, in tokens, that is looked at."
    )
    max_suffix: int = Field(
        default=16, ge=1, le=64, description="Longest match that is told from shorter ones."
    )
    max_candidates: int = Field(
        default=16,
        ge=1,
        le=256,
        description="Earlier places compared in the session's own text, and as many in recent "
        "traffic; the latest first.",
    )
    max_branches: int = Field(
        default=2, ge=1, le=8, description="Different continuations proposed at one place."
    )
    max_length: int = Field(
        default=16, ge=1, le=1024, description="Nodes that lookup adds to one session in one step."
    )
    min_probability: float = Field(
        default=0.15,
        ge=0.0,
        le=1.0,
        description="Estimated probability below which a continuation is not proposed.",
    )
    min_probability_beside_model: float = Field(
        default=0.3,
        ge=0.0,
        le=1.0,
        description="The same where a model drafts too. What lookup says below it still counts "
        "for the score of a guess that the model makes as well.",
    )


class DraftSettings(ServiceSettings):
    """Everything the draft service can be told."""

    model_config = SettingsConfigDict(env_prefix="TREEDRAFT_DRAFT__")

    model: str = Field(
        default="",
        description="Hub id, folder or .gguf file of a draft model, or the name of a shipped one; "
        "`auto` is the one shipped for the default target. Empty or `lookup` drafts by lookup "
        "alone.",
    )
    model_name: str = Field(
        default="", description="Name shown to others; empty takes the model's own."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Numbers the model computes in; `auto` is bfloat16 on accelerators; on a CPU "
        "float32 where the native decoder runs, else bfloat16 if there are instructions for it. "
        "It decides how soon a guess is made, never what is said.",
    )
    weights: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        default="auto",
        description="How linear layers hold their weights where the native decoder runs, in "
        "float32 on a CPU: `auto` is int8 for a distilled drafter, for other models bfloat16 if "
        "their weights are bfloat16 numbers anyway, else float32.",
    )
    device: str = Field(default="auto", description="`cpu`, `cuda`, `cuda:1` or `auto`.")
    num_threads: int = Field(
        default=0,
        ge=0,
        description="CPU threads of the model; 0 leaves it to torch. Set it where a target "
        "shares the machine: busy threads of two processes spin against each other.",
    )
    kv_tokens: int = Field(
        default=32768,
        ge=64,
        description="Tokens whose KV the draft model holds, over all sessions; memory is this "
        "times the bytes a token takes.",
    )
    max_sessions: int = Field(
        default=256, ge=1, description="Sessions drafted for at once; more are refused."
    )
    watchdog_seconds: float = Field(
        default=60.0,
        gt=0,
        description="A step that takes longer hangs: the drafter says that it does not serve and "
        "ends, to be started again.",
    )
    growth: GrowthSettings = GrowthSettings()
    lookup: LookupSettings = LookupSettings()
    grpc: GrpcSettings = GrpcSettings()
    tls: TlsSettings = Field(default_factory=TlsSettings)
    telemetry: TelemetrySettings = TelemetrySettings()
    worker: WorkerSettings = WorkerSettings()
