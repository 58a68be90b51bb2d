"""Values of pools: a model, the workload that serves it, and what it runs on."""

from typing import Annotated, Any, Literal

from pydantic import Field
from scripts.chart.shared import (
    Name,
    Quantity,
    Resources,
    Scheduling,
    SecretKey,
    Values,
    settings_of,
)

PoolName = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]{0,13}[a-z0-9])?$")]


class VolumeModel(Values):
    """A model in a volume that exists already."""

    claim: Name = Field(default="", description="PersistentVolumeClaim with it, read only.")
    path: str = Field(
        default="", pattern=r"^([^./][^:]*)?$", description="Folder or .gguf file in the volume."
    )


class OciModel(Values):
    """A model in an OCI artefact, mounted as a volume (Kubernetes 1.33)."""

    reference: str = Field(default="", description="Registry, name and digest or tag.")
    path: str = Field(
        default="", pattern=r"^([^./][^:]*)?$", description="Folder or .gguf file in it."
    )
    pullPolicy: Literal["IfNotPresent", "Always", "Never"] = Field(
        default="IfNotPresent", description="When it is pulled."
    )


class Model(Values):
    """Which model, and where it comes from."""

    source: Literal["hub", "volume", "oci"] = Field(
        default="hub", description="Which of the groups below counts."
    )
    hub: str = Field(
        default="default",
        description="Hub id, `@` and a revision after it if wanted; `default` is "
        "SmolLM2-135M-Instruct from the package index. For drafters also the name of a shipped "
        "one, and `lookup`, which needs no model.",
    )
    hubTokenSecret: SecretKey = Field(
        default=SecretKey(), description="Token of the hub, for models that want one."
    )
    volume: VolumeModel = Field(default=VolumeModel(), description="With `source: volume`.")
    oci: OciModel = Field(default=OciModel(), description="With `source: oci`.")
    name: str = Field(
        default="",
        description="Name that clients ask for. Two pools of one name are two revisions of one "
        "model: requests are shared out by their weights.",
    )


class Cache(Values):
    """Where downloads, converted models and compiled code are kept."""

    size: Quantity = Field(default="20Gi", description="Most that may be kept.")
    persistent: bool = Field(
        default=False,
        description="Whether each pod has a volume of its own that outlives it. Not with "
        "`workload: Deployment`.",
    )
    storageClass: Name = Field(default="", description="Empty is the cluster's default.")


class Scaling(Values):
    """Between which sizes the pool is scaled, if `autoscaling.kind` is not `none`."""

    enabled: bool = Field(default=True, description="Whether this pool is scaled at all.")
    minReplicas: int = Field(default=1, ge=0, description="Fewest pods; 0 not with `hpa`.")
    maxReplicas: int = Field(default=4, ge=1, description="Most pods.")
    sessionsPerReplica: int = Field(
        default=16, ge=1, description="Sessions a pod should run; for `hpa` and `keda`."
    )


class Pool(Scheduling):
    """What pools of targets and of drafters have in common."""

    replicas: int = Field(default=1, ge=0, description="Pods, where nothing scales the pool.")
    workload: Literal["StatefulSet", "Deployment"] = Field(
        default="StatefulSet",
        description="A StatefulSet gives pods lasting names, and gives up the last one first; a "
        "Deployment gives up the emptiest one (pod deletion cost).",
    )
    model: Model = Field(default=Model(), description="Which model, and where from.")
    image: Literal["", "control", "cpu", "cuda"] = Field(
        default="",
        description="One of `images`; empty takes cuda with GPUs, control for `lookup`, else cpu.",
    )
    gpus: int = Field(default=0, ge=0, description="GPUs of a pod; their taint is tolerated then.")
    gpuResource: str = Field(default="nvidia.com/gpu", description="What a GPU is called.")
    runtimeClassName: Name = Field(default="", description="Such as nvidia, where it is needed.")
    cache: Cache = Field(default=Cache(), description="Downloads and compiled code.")
    startupSeconds: int = Field(
        default=1800, ge=10, description="Time for fetching, loading and warming the model."
    )
    maxUnavailable: int = Field(
        default=1, ge=1, description="Pods that a planned disruption may take at once."
    )
    weight: float = Field(
        default=1.0,
        ge=0,
        description="Share of new sessions among the pools of one model, or of one tokenizer for "
        "drafters. `treedraft rollout` changes it while all runs.",
    )
    scaling: Scaling = Field(default=Scaling(), description="Limits of scaling.")


class TargetPool(Pool):
    """A pool of targets."""

    drafters: PoolName | Literal[""] = Field(
        default="",
        description="Pool of drafters that our autoscaler sizes with this one; empty is the one of "
        "the same name, if there is.",
    )
    drainSeconds: int = Field(
        default=60,
        ge=0,
        description="Time that running sessions get when a pod ends, to end or to move. The pod's "
        "grace time follows it.",
    )
    resources: Resources = Field(
        default=Resources(
            requests={"cpu": "2", "memory": "4Gi"},
            limits={"memory": "8Gi"},
        ),
        description="Of a pod, GPUs aside.",
    )
    settings: dict[str, Any] = settings_of("target")


class DraftPool(Pool):
    """A pool of drafters."""

    model: Model = Field(
        default=Model(hub="smollm2-135m-drafter"), description="Which model, and where from."
    )
    resources: Resources = Field(
        default=Resources(
            requests={"cpu": "1", "memory": "2Gi"},
            limits={"memory": "4Gi"},
        ),
        description="Of a pod, GPUs aside.",
    )
    settings: dict[str, Any] = settings_of("draft")
