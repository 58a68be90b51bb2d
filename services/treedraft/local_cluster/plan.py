"""What a local cluster consists of, and the environment of each of its processes.

Pure functions from a plan to environments, so that what a process is told can
be read and tested without starting one. What the user has set in the
environment stays, but for what the plan says and what holds the cluster
together: ports, endpoint files and the coordinator's address.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from treedraft.environment import setting_variables
from treedraft.inference.stamp import num_usable_cores as num_usable_cores
from treedraft.settings import TlsSettings

COORDINATOR = "coordinator"
TARGET = "target"
DRAFT = "draft"
API_KEY_VARIABLE = "TREEDRAFT_API_KEY"
_MAX_CORES_IN_TURNS = 4
_WILDCARDS = ("0.0.0.0", "::", "[::]")


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """How many processes of which kind, on which models.

    `target` and `draft` are hub ids, folders or .gguf files; an empty `draft`
    leaves the drafters to lookup. `dtype` is the target's: what a drafter
    computes in changes no token; `weights` are the target's too. An empty `draft_device`
    is the target's `device`. Empty `dtype`, `weights` and `device`, and 0 threads, leave it
    to the services or to `share_threads`. With a `metrics_port` the coordinator serves
    metrics there, and each worker on one of the ports that follow. `settings` are
    environment variables for all processes. `tls` is for all of them and for who asks the
    cluster; `api_key` is
    what such a one says to a coordinator that demands one.
    """

    target: str = "default"
    draft: str = ""
    redis: str = ""
    num_targets: int = 1
    num_drafters: int = 1
    dtype: str = ""
    weights: str = ""
    device: str = ""
    draft_device: str = ""
    target_threads: int = 0
    draft_threads: int = 0
    # Port of the drafter, where there is one and others must know it beforehand.
    draft_port: int = 0
    coordinator_host: str = ""
    coordinator_port: int = 0
    http_port: int = 0
    metrics_port: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)
    tls: TlsSettings = field(default_factory=TlsSettings)
    api_key: str = field(
        default_factory=lambda: os.environ.get("TREEDRAFT_API_KEY", ""), repr=False
    )


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """One process: its role, its name in the cluster, and its environment."""

    role: str
    name: str
    environment: Mapping[str, str]

    def endpoint_file(self, folder: Path) -> Path:
        """Return where the process writes its endpoint."""
        return folder / f"{self.name}.endpoint"

    def address_file(self, folder: Path) -> Path:
        """Return where a coordinator writes the address of its HTTP door."""
        return folder / f"{self.name}.address"

    def log_file(self, folder: Path) -> Path:
        """Return where its output goes."""
        return folder / f"{self.name}.log"


def takes_turns(num_cores: int, plan: ClusterPlan) -> bool:
    """Return whether target and draft model compute one after the other, each on all cores.

    With few cores a part of them is too little for either. The drafter then
    stops where growing on does not pay and the target waits for it, so that
    they hardly ever compute at once (ADR 0009).
    """
    is_alone = plan.num_targets == plan.num_drafters == 1
    is_alone = is_alone and plan.draft_device in ("", plan.device)
    is_free = not plan.target_threads and not plan.draft_threads
    return bool(plan.draft) and is_alone and is_free and num_cores <= _MAX_CORES_IN_TURNS


def share_threads(num_cores: int, plan: ClusterPlan) -> tuple[int, int]:
    """Return the threads of each target and of each draft model.

    Busy threads of two processes on one core spin against each other, which
    costs far more than their number, so cores are dealt out, a quarter to the
    draft models, if there are any, and the rest to the targets; or, where cores
    are few, the two take turns.
    """
    if takes_turns(num_cores, plan):
        return num_cores, num_cores
    num_models = plan.num_drafters if plan.draft else 0
    for_drafts = max(1, num_cores // 4) if num_models else 0
    for_targets = max(1, num_cores - for_drafts)
    return (
        plan.target_threads or max(1, for_targets // max(1, plan.num_targets)),
        plan.draft_threads or max(1, for_drafts // max(1, num_models)),
    )


def synchronous_settings(num_nodes: int) -> dict[str, str]:
    """Return the environment of the synchronous exchange.

    Each step asks the drafter for a tree of so many nodes and waits for all of it; the
    drafter computes for nobody who does not wait.
    """
    return {
        "TREEDRAFT_TARGET__PATIENCE__IS_SYNCHRONOUS": "true",
        "TREEDRAFT_TARGET__GATE__ENABLED": "false",
        "TREEDRAFT_TARGET__BUDGET__MAX_NODES": str(num_nodes),
        "TREEDRAFT_DRAFT__GROWTH__MAX_LIVE_NODES": str(num_nodes),
        "TREEDRAFT_DRAFT__GROWTH__SHARES_DEVICE": "true",
    }


def thread_environment(num_threads: int) -> dict[str, str]:
    """Return the environment of any process that runs a model beside others.

    A waiting thread spins for about a tenth of a millisecond, then gives its
    core away. Never spinning costs a wake-up at each of some 200 parallel
    regions of a pass (40 ms become 60 for the default model); spinning for as
    long as OpenMP likes makes a pass several times slower beside other work.
    """
    return {"OMP_NUM_THREADS": str(num_threads), "GOMP_SPINCOUNT": "10000"}


def plan_coordinator(
    plan: ClusterPlan, folder: Path, environ: Mapping[str, str] = os.environ
) -> ServicePlan:
    """Return the plan of the coordinator's process."""
    held = {"GRPC__PORT": str(plan.coordinator_port)}
    held |= {"HTTP__PORT": str(plan.http_port)}
    held |= {
        "HTTP__ADDRESS_FILE": str(ServicePlan(COORDINATOR, COORDINATOR, {}).address_file(folder))
    }
    if plan.coordinator_host:
        held |= {"GRPC__HOST": plan.coordinator_host, "HTTP__HOST": plan.coordinator_host}
    if plan.coordinator_host in _WILDCARDS:
        # All who dial it here are on this machine.
        held |= {"GRPC__ADVERTISE": "127.0.0.1", "HTTP__ADVERTISE": "127.0.0.1"}
    if plan.redis:
        held["REDIS"] = plan.redis
    held |= _metrics(plan, 0)
    return _service(COORDINATOR, COORDINATOR, held, plan, folder, environ)


def plan_workers(
    plan: ClusterPlan,
    coordinator: str,
    folder: Path,
    environ: Mapping[str, str] = os.environ,
    *,
    num_cores: int,
) -> list[ServicePlan]:
    """Return the plans of all targets and drafters, which announce themselves."""
    target_threads, draft_threads = share_threads(num_cores, plan)
    held = {"GRPC__PORT": "0", "WORKER__COORDINATORS": coordinator}
    draft_device = plan.draft_device or plan.device
    numbers = {"DTYPE": plan.dtype} if plan.dtype else {}
    numbers |= {"WEIGHTS": plan.weights} if plan.weights else {}
    # Whoever starts a cluster like this is its only tenant.
    own = {"TREEDRAFT_DRAFT__LOOKUP__RECENT__WITHOUT_TENANT": "true"}
    in_turns = (
        {
            "TREEDRAFT_DRAFT__GROWTH__SHARES_DEVICE": "true",
            "TREEDRAFT_TARGET__PATIENCE__TAKES_TURNS": "true",
        }
        if takes_turns(num_cores, plan)
        else {}
    )
    targets = [
        _service(
            TARGET,
            f"{TARGET}-{index}",
            {
                **held,
                **numbers,
                **({"DEVICE": plan.device} if plan.device else {}),
                "MODEL": plan.target,
                "WORKER__WORKER_ID": worker_id(f"{TARGET}-{index}", folder),
                **_metrics(plan, 1 + index),
            },
            plan,
            folder,
            {**in_turns, **_with_threads(TARGET, target_threads, environ)},
        )
        for index in range(plan.num_targets)
    ]
    drafters = [
        _service(
            DRAFT,
            f"{DRAFT}-{index}",
            {
                **held,
                **({"DEVICE": draft_device} if draft_device else {}),
                "GRPC__PORT": str(plan.draft_port),
                "MODEL": plan.draft,
                "WORKER__WORKER_ID": worker_id(f"{DRAFT}-{index}", folder),
                **_metrics(plan, 1 + plan.num_targets + index),
            },
            plan,
            folder,
            {**own, **in_turns, **_with_threads(DRAFT, draft_threads, environ)},
        )
        for index in range(plan.num_drafters)
    ]
    return targets + drafters


def worker_id(name: str, folder: Path) -> str:
    """Return the name under which a worker announces itself, unlike those of other clusters."""
    return f"{name}-{folder.name}"


def _metrics(plan: ClusterPlan, number: int) -> dict[str, str]:
    port = plan.metrics_port + number
    return {"TELEMETRY__METRICS_PORT": str(port)} if plan.metrics_port else {}


def _service(
    role: str,
    name: str,
    held: Mapping[str, str],
    plan: ClusterPlan,
    folder: Path,
    environ: Mapping[str, str],
) -> ServicePlan:
    endpoint_file = ServicePlan(role, name, {}).endpoint_file(folder)
    patience = {
        f"TREEDRAFT_{role.upper()}__GRPC__GRACE_SECONDS": "2",
        f"TREEDRAFT_{role.upper()}__DRAIN_SECONDS": "5",
        # Whoever starts a cluster like this wants to see any request's trace.
        f"TREEDRAFT_{role.upper()}__TELEMETRY__SAMPLE_RATIO": "1",
    }
    if role == DRAFT:
        del patience["TREEDRAFT_DRAFT__DRAIN_SECONDS"]
    environment = {
        **patience,
        **environ,
        **setting_variables(plan.tls),
        **plan.settings,
        "PYTHONUNBUFFERED": "1",
    }
    held = {**held, "GRPC__ENDPOINT_FILE": str(endpoint_file)}
    if role != COORDINATOR:
        held["WORKER__WORKER_ID"] = worker_id(name, folder)
    for key, value in held.items():
        environment[f"TREEDRAFT_{role.upper()}__{key}"] = value
    return ServicePlan(role, name, environment)


def _with_threads(role: str, threads: int, environ: Mapping[str, str]) -> dict[str, str]:
    own = {f"TREEDRAFT_{role.upper()}__NUM_THREADS": str(threads)}
    return {**own, **thread_environment(threads), **environ}
