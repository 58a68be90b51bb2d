"""Groups of values that several components have."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)?$")]
"""Name of a Kubernetes object, or nothing."""

Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]i?)?$")]
"""An amount, as Kubernetes writes it."""

Free = dict[str, Any]
"""A piece of a Kubernetes object, which Kubernetes itself checks."""


class Values(BaseModel):
    """Base of all groups: unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Image(Values):
    """Where an image comes from."""

    repository: str = Field(min_length=1, description="Registry and name.")
    tag: str = Field(default="", description="Empty takes the chart's appVersion.")
    digest: str = Field(
        default="",
        pattern="^(sha256:[0-9a-f]{64})?$",
        description="`sha256:…`; wins over the tag.",
    )


class Images(Values):
    """The images, as `deploy/docker/Dockerfile` builds them."""

    control: Image = Field(
        default=Image(repository="treedraft/control"),
        description="Coordinator, autoscaler, drafters without a model and `helm test`.",
    )
    cpu: Image = Field(
        default=Image(repository="treedraft/inference-cpu"), description="Models on CPUs."
    )
    cuda: Image = Field(
        default=Image(repository="treedraft/inference-cuda"), description="Models on NVIDIA GPUs."
    )
    pullPolicy: Literal["IfNotPresent", "Always", "Never"] = Field(
        default="IfNotPresent", description="Of all images."
    )
    pullSecrets: list[Name] = Field(
        default=[], description="Names of Secrets for private registries."
    )


class SecretKey(Values):
    """One key of a Secret that exists already."""

    name: Name = Field(default="", description="Name of the Secret; empty uses none.")
    key: str = Field(default="", description="Key in it.")


class Resources(Values):
    """What a container asks for, and what it may take."""

    requests: dict[str, str | int] = Field(
        default={}, description="Asked of the scheduler: cpu, memory."
    )
    limits: dict[str, str | int] = Field(
        default={}, description="Never exceeded. Memory above it ends the process."
    )


class Scheduling(Values):
    """Where pods run."""

    nodeSelector: dict[str, str] = Field(default={}, description="Labels that a node must have.")
    tolerations: list[Free] = Field(default=[], description="Taints that are no hindrance.")
    affinity: Free = Field(default={}, description="As in a pod.")
    spread: Literal["prefer", "require", "none"] = Field(
        default="prefer",
        description="Whether pods of one kind are spread over nodes and zones.",
    )
    priorityClassName: Name = Field(default="", description="Empty is the cluster's default.")
    podLabels: dict[str, str] = Field(default={}, description="Added to the pods.")
    podAnnotations: dict[str, str] = Field(default={}, description="Added to the pods.")
    extraEnv: list[Free] = Field(
        default=[],
        description="Variables of the container besides the settings, such as a proxy's.",
    )


def settings_of(service: str) -> Any:
    """Return a field for the settings of a service; the schema has them in full."""
    return Field(
        default={},
        description=f"Settings of the {service} service, as in its table below. What the chart "
        "itself sets is not among them.",
        json_schema_extra={"settings_of": service},
    )
