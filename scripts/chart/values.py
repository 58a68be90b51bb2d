"""All values of the chart, in the order of `values.yaml`."""

from typing import Any, Literal

from pydantic import Field
from scripts.chart.cluster import Autoscaling, Metrics, NetworkPolicy, Redis, Telemetry, Tests, Tls
from scripts.chart.pools import DraftPool, PoolName, TargetPool
from scripts.chart.shared import Images, Name, Resources, Scheduling, Values, settings_of


class Service(Values):
    """How clients reach the coordinators."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field(
        default="ClusterIP", description="Kind of the Service."
    )
    annotations: dict[str, str] = Field(
        default={}, description="Of the Service, such as a load balancer's."
    )


class Ingress(Values):
    """An Ingress for the HTTP door."""

    enabled: bool = Field(default=False, description="Whether there is one.")
    className: Name = Field(default="", description="Empty is the cluster's default.")
    host: str = Field(default="", description="Name under which clients ask.")
    tlsSecretName: Name = Field(
        default="", description="Secret with the certificate for that name; empty speaks HTTP."
    )
    annotations: dict[str, str] = Field(
        default={},
        description="Of the Ingress: streams want long timeouts and no buffering, and with "
        "`tls.enabled` the controller has to speak TLS, too.",
    )


class Http(Values):
    """OpenAI's API over HTTP, beside gRPC; with certificates where TLS is spoken."""

    enabled: bool = Field(default=True, description="Whether HTTP is served.")
    ingress: Ingress = Field(default=Ingress(), description="A way in from outside.")


class ApiKeys(Values):
    """Keys of tenants. Without them everybody in reach is let in."""

    secretName: Name = Field(
        default="",
        description="Secret with the keys `keys.toml` and `tenant-secret`, see docs/security.md. "
        "It is followed as it changes.",
    )


class Coordinator(Scheduling):
    """The door: clients and workers come here."""

    replicas: int = Field(
        default=1, ge=1, description="More than one need Redis, which they share sessions in."
    )
    service: Service = Field(default=Service(), description="How clients reach it.")
    http: Http = Field(default=Http(), description="OpenAI's API over HTTP.")
    apiKeys: ApiKeys = Field(default=ApiKeys(), description="Who is let in.")
    drainSeconds: int = Field(
        default=120, ge=0, description="Time that running requests get when a pod ends."
    )
    preStopSeconds: int = Field(
        default=5,
        ge=1,
        description="Time before a pod begins to end, in which the cluster learns not to send "
        "anybody there.",
    )
    maxUnavailable: int = Field(
        default=1, ge=1, description="Pods that a planned disruption may take at once."
    )
    resources: Resources = Field(
        default=Resources(
            requests={"cpu": "500m", "memory": "512Mi"},
            limits={"memory": "1Gi"},
        ),
        description="Of a pod.",
    )
    settings: dict[str, Any] = settings_of("coordinator")


class Kubernetes(Values):
    """What the API server can do, where that cannot be asked."""

    version: str = Field(
        default="",
        pattern=r"^(v?1\.[0-9]+(\.[0-9]+)?)?$",
        description="Version to write manifests for; empty asks the server. Before 1.30 the pause "
        "at the end is a command, before 1.24 probes are too, before 1.23 HPAs are v2beta2, before "
        "1.21 disruption budgets v1beta1.",
    )
    clusterDomain: str = Field(
        default="cluster.local", min_length=1, description="Domain of Services."
    )
    listen: Literal["0.0.0.0", "::"] = Field(
        default="0.0.0.0", description="Address that services listen on; `::` where pods have IPv6."
    )
    imageVolumes: bool = Field(
        default=False,
        description="Says that image volumes are enabled in a server before 1.35, where they can "
        "be switched off.",
    )


class ChartValues(Values):
    """Everything the chart can be told."""

    nameOverride: Name = Field(default="", description="In place of the chart's name in labels.")
    fullnameOverride: Name = Field(
        default="", max_length=28, description="In place of the release's name in names."
    )
    images: Images = Field(default=Images(), description="Where images come from.")
    coordinator: Coordinator = Field(
        default=Coordinator(), description="The door: clients and workers come here."
    )
    targetDefaults: TargetPool = Field(
        default=TargetPool(), description="What a pool of targets is where it does not say."
    )
    targetPools: dict[PoolName, TargetPool] = Field(
        default={"main": TargetPool()},
        description="Pools of targets by name, each with what differs from `targetDefaults`. "
        "`main: null` does without the one that is there.",
    )
    draftDefaults: DraftPool = Field(
        default=DraftPool(), description="What a pool of drafters is where it does not say."
    )
    draftPools: dict[PoolName, DraftPool] = Field(
        default={"main": DraftPool()},
        description="Pools of drafters by name, each with what differs from `draftDefaults`. "
        "Without any there is no speculation.",
    )
    autoscaling: Autoscaling = Field(default=Autoscaling(), description="Who scales the pools.")
    redis: Redis = Field(default=Redis(), description="Where coordinators keep sessions.")
    tls: Tls = Field(default=Tls(), description="Certificates on every connection, both ways.")
    networkPolicy: NetworkPolicy = Field(
        default=NetworkPolicy(), description="Who may talk to whom; all else is cut off."
    )
    telemetry: Telemetry = Field(default=Telemetry(), description="Traces and logs.")
    metrics: Metrics = Field(default=Metrics(), description="Metrics and what is made of them.")
    kubernetes: Kubernetes = Field(default=Kubernetes(), description="What the server can do.")
    tests: Tests = Field(default=Tests(), description="What `helm test` does.")
