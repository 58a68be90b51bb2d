"""Settings of the autoscaler (`TREEDRAFT_AUTOSCALER__…`)."""

from typing import Literal

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from treedraft.settings import (
    CommaSeparated,
    Frozen,
    GrpcSettings,
    ServiceSettings,
    TelemetrySettings,
    TlsSettings,
)


class WorkloadSettings(Frozen):
    """A Kubernetes workload whose replicas are a pool."""

    kind: Literal["StatefulSet", "Deployment"] = Field(
        default="StatefulSet", description="What runs the pods of the pool."
    )
    name: str = Field(
        min_length=1,
        max_length=253,
        description="Its name. A worker belongs to the pool if its id is the name of one of the "
        "workload's pods.",
    )
    min_replicas: int = Field(default=1, ge=0, description="Never fewer; 0 allows none at all.")
    max_replicas: int = Field(default=8, ge=0, description="Never more.")

    @model_validator(mode="after")
    def _check_bounds(self) -> "WorkloadSettings":
        if self.max_replicas < self.min_replicas:
            raise ValueError("max_replicas is below min_replicas")
        return self


class PoolSettings(Frozen):
    """A pool of targets of one model, and the pool of drafters that drafts for it."""

    model: str = Field(
        default="",
        description="Name of the model that clients ask for; a request for it that finds no target "
        "wakes this pool. Empty is woken by any.",
    )
    target: WorkloadSettings
    draft: WorkloadSettings | None = Field(
        default=None, description="Drafters; none if the pool's size is not ours to choose."
    )


class BudgetGoals(Frozen):
    """How much room is kept while errors are still allowed, where first tokens are due.

    Targets that know when first tokens are due (`first_token.seconds`) report how many
    were missed. With the budget spent, or unknown, the room is that of the other goals.
    """

    objective: float = Field(
        default=0.99, gt=0, lt=1, description="Share of the first tokens that must be in time."
    )
    window_seconds: float = Field(
        default=86_400.0, gt=0, description="The objective holds over about so long."
    )
    least_errors: float = Field(
        default=10.0,
        ge=0,
        description="The budget counts as spent until so many errors are allowed: after a start "
        "nobody knows yet how many requests will share it.",
    )
    whole_prompt_share: float = Field(
        default=0.7,
        gt=0,
        le=1,
        description="`goal_prompt_share` while nothing of the budget is spent; in proportion "
        "between.",
    )
    whole_spare_targets: float = Field(
        default=0.4, ge=0, description="`spare_targets` while nothing is spent, likewise."
    )


class TargetGoals(Frozen):
    """How full and how slow targets may be."""

    goal_sessions: float = Field(
        default=0.0,
        ge=0,
        description="Sessions per target, running and waiting; 0 takes `goal_occupancy` of what "
        "the targets say they can hold.",
    )
    goal_occupancy: float = Field(
        default=0.7, gt=0, le=1, description="Share of a target's sessions that should be in use."
    )
    goal_kv_use: float = Field(
        default=0.8, gt=0, le=1, description="Share of the KV pages that should be in use."
    )
    goal_prompt_share: float = Field(
        default=0.7,
        gt=0,
        le=1,
        description="Share of the time in which passes carry tokens of prompts. Where it nears 1, "
        "prompts wait for each other; what is left of it carries bursts while pods start.",
    )
    spare_targets: float = Field(
        default=0.4,
        ge=0,
        description="Targets to spare for chance, for a pool with one target's worth of prompts; "
        "for so many times the prompts, the square root of it times as many.",
    )
    goal_queue_wait_seconds: float = Field(
        default=0.5, gt=0, description="Wait for the first work, 95th percentile."
    )
    goal_first_token_seconds: float = Field(
        default=2.0, gt=0, description="Time to the first token, 95th percentile."
    )
    goal_inter_token_seconds: float = Field(
        default=0.2, gt=0, description="Time between tokens, 95th percentile."
    )
    budget: BudgetGoals = BudgetGoals()
    idle_seconds: float = Field(
        default=600.0,
        ge=0,
        description="A pool that may have no target loses its last one after so long without a "
        "session. A request that finds none wakes it.",
    )


class DraftGoals(Frozen):
    """When drafters pay, and how busy they may be."""

    goal_utilisation: float = Field(
        default=0.6, gt=0, le=1, description="Share of the time in which a drafter computes."
    )
    goal_late_share: float = Field(
        default=0.35, gt=0, le=1, description="Share of drafted nodes that may come in vain."
    )
    goal_sessions: float = Field(
        default=0.0,
        ge=0,
        description="Sessions per drafter; 0 leaves it to what drafters say they can hold.",
    )
    verification_cost: float = Field(
        default=1.2,
        ge=1,
        description="What a pass over a tree costs, in plain passes; `treedraft bench passes` "
        "measures it.",
    )
    cost: float = Field(
        default=0.25,
        ge=0,
        description="What a drafter costs, in targets. Drafters go when the same money in targets "
        "would bring more.",
    )
    pays_in: Literal["tokens", "targets"] = Field(
        default="tokens",
        description="What drafters must bring for their cost: tokens a second, so that answers "
        "are as fast as the money makes them, or targets that would be needed without them, so "
        "that the goals are met for the least money.",
    )
    rest_seconds: float = Field(
        default=300.0,
        ge=0,
        description="Speculation must fail to pay for so long before the drafters go.",
    )
    probe_seconds: float = Field(
        default=1800.0,
        gt=0,
        description="After so long without drafters one is started to see whether it pays again.",
    )


class PaceSettings(Frozen):
    """How quickly a pool changes its size."""

    tolerance: float = Field(
        default=0.1, ge=0, lt=1, description="Needs this close to the present size change nothing."
    )
    smoothing_seconds: float = Field(
        default=60.0,
        ge=0,
        description="Needs are averaged over about so long: what is over before a pod has "
        "started is not worth starting it for.",
    )
    up_seconds: float = Field(
        default=30.0, ge=0, description="A need must last so long before replicas are added."
    )
    down_seconds: float = Field(
        default=300.0, ge=0, description="A lesser need must last so long before any are removed."
    )
    up_cooldown_seconds: float = Field(
        default=15.0, ge=0, description="Pause between two additions."
    )
    down_cooldown_seconds: float = Field(
        default=60.0, ge=0, description="Pause between two removals, and after an addition."
    )
    max_up_share: float = Field(
        default=1.0, gt=0, description="Replicas added at once, as a share of those there are."
    )
    max_up_replicas: int = Field(
        default=4, ge=1, description="At least so many may be added at once."
    )
    max_down_share: float = Field(
        default=0.1, gt=0, le=1, description="Replicas removed at once, as a share; at least one."
    )


class LeaderSettings(Frozen):
    """Which of several autoscalers acts."""

    lease_name: str = Field(default="treedraft-autoscaler", min_length=1, description="The Lease.")
    lease_seconds: float = Field(
        default=15.0, ge=1, description="A leader that is silent for so long is replaced."
    )
    renew_seconds: float = Field(
        default=5.0, gt=0, description="How often the leader renews, and others look."
    )

    @model_validator(mode="after")
    def _check_pace(self) -> "LeaderSettings":
        if self.renew_seconds >= self.lease_seconds:
            raise ValueError("renew_seconds must be below lease_seconds")
        return self


class AutoscalerSettings(ServiceSettings):
    """Everything the autoscaler can be told."""

    model_config = SettingsConfigDict(env_prefix="TREEDRAFT_AUTOSCALER__")

    coordinators: CommaSeparated = Field(
        default=(),
        description="`host:port` of coordinators, with commas between them. A name that stands "
        "for several addresses, as a headless Service does, is asked at each.",
    )
    api_key_file: str = Field(
        default="", description="File with the API key to ask coordinators with; empty has none."
    )
    namespace: str = Field(
        default="", description="Namespace of the workloads; empty takes that of this pod."
    )
    pools: tuple[PoolSettings, ...] = Field(
        default=(),
        description="The pools, as JSON: "
        '`[{"target": {"name": "llm-target"}, "draft": {"name": "llm-draft"}}]`.',
    )
    interval_seconds: float = Field(default=5.0, gt=0, description="Time between two decisions.")
    resync_seconds: float = Field(
        default=300.0, gt=0, description="How often workloads are listed anew beside watching them."
    )
    blind_seconds: float = Field(
        default=60.0,
        gt=0,
        description="Without an answer of any coordinator for so long, health says so; meanwhile "
        "all sizes stay as they are.",
    )
    dry_run: bool = Field(default=False, description="Whether to decide and say so, but not act.")
    target: TargetGoals = TargetGoals()
    draft: DraftGoals = DraftGoals()
    pace: PaceSettings = PaceSettings()
    leader: LeaderSettings = LeaderSettings()
    grpc: GrpcSettings = GrpcSettings()
    tls: TlsSettings = Field(default_factory=TlsSettings)
    telemetry: TelemetrySettings = TelemetrySettings()
