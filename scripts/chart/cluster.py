"""Values of what the services share: scaling, store, certificates, network, telemetry."""

from typing import Any, Literal

from pydantic import Field
from scripts.chart.shared import (
    Free,
    Image,
    Name,
    Resources,
    Scheduling,
    SecretKey,
    Values,
    settings_of,
)


class Hpa(Values):
    """HorizontalPodAutoscalers, over an adapter that knows our metrics."""

    metric: str = Field(
        default="treedraft_sessions",
        min_length=1,
        description="Metric of pods that should be `scaling.sessionsPerReplica`.",
    )
    scaleDownSeconds: int = Field(default=300, ge=0, description="Calm before a pod is given up.")


class Keda(Values):
    """ScaledObjects of KEDA, which asks Prometheus."""

    prometheus: str = Field(
        default="http://prometheus-operated.monitoring:9090", description="Address of Prometheus."
    )
    pollingSeconds: int = Field(default=15, ge=1, description="Time between two looks.")
    cooldownSeconds: int = Field(
        default=300, ge=0, description="Calm before the last pod is given up."
    )


class Autoscaler(Scheduling):
    """Our own autoscaler: sizes targets by load, and drafters by what they bring."""

    replicas: int = Field(default=2, ge=1, description="One leads, the others wait.")
    apiKeySecret: SecretKey = Field(
        default=SecretKey(), description="Key of a tenant, where coordinators demand one."
    )
    resources: Resources = Field(
        default=Resources(
            requests={"cpu": "100m", "memory": "192Mi"},
            limits={"memory": "384Mi"},
        ),
        description="Of a pod.",
    )
    settings: dict[str, Any] = settings_of("autoscaler")


class Autoscaling(Values):
    """Who scales the pools."""

    kind: Literal["none", "treedraft", "hpa", "keda"] = Field(
        default="none",
        description="`treedraft` is our own autoscaler; `hpa` and `keda` look at sessions per pod; "
        "`none` leaves `replicas`.",
    )
    autoscaler: Autoscaler = Field(default=Autoscaler(), description="With `kind: treedraft`.")
    hpa: Hpa = Field(default=Hpa(), description="With `kind: hpa`.")
    keda: Keda = Field(default=Keda(), description="With `kind: keda`.")


class BundledRedis(Scheduling):
    """One Redis without a disk, for trials: if it ends, sessions cannot be resumed."""

    image: Image = Field(
        default=Image(repository="docker.io/library/redis", tag="7.4.2-alpine"),
        description="Redis 7 or newer.",
    )
    maxMemory: str = Field(
        default="256mb", pattern="^[0-9]+(kb|mb|gb)$", description="As Redis writes it."
    )
    resources: Resources = Field(
        default=Resources(
            requests={"cpu": "100m", "memory": "320Mi"},
            limits={"memory": "512Mi"},
        ),
        description="Of its pod; memory above `maxMemory`.",
    )


class ExternalRedis(Values):
    """A Redis that runs already."""

    url: str = Field(
        default="",
        pattern=r"^(rediss?://[^@]*)?$",
        description="`redis://…`, or `rediss://…` for TLS; without a password, which belongs into "
        "`urlSecret`.",
    )
    urlSecret: SecretKey = Field(
        default=SecretKey(), description="Key of a Secret with the whole URL, in place of `url`."
    )
    port: int = Field(
        default=6379, ge=1, le=65535, description="Port that the network policy opens."
    )
    peers: list[Free] = Field(
        default=[],
        description="Who Redis is, as peers of a NetworkPolicy; empty is anybody on that port.",
    )


class Redis(Values):
    """Where coordinators keep sessions."""

    kind: Literal["none", "bundled", "external"] = Field(
        default="none", description="`none` keeps them in the one coordinator."
    )
    bundled: BundledRedis = Field(default=BundledRedis(), description="With `kind: bundled`.")
    external: ExternalRedis = Field(default=ExternalRedis(), description="With `kind: external`.")


class Issuer(Values):
    """An issuer of cert-manager."""

    name: Name = Field(
        default="",
        description="Name of an issuer; empty makes an authority of the release's own.",
    )
    kind: Literal["Issuer", "ClusterIssuer"] = Field(default="Issuer", description="Its kind.")
    group: str = Field(default="cert-manager.io", description="Its API group.")


class CertManager(Values):
    """Certificates made and renewed by cert-manager."""

    enabled: bool = Field(default=True, description="Whether it makes them.")
    issuer: Issuer = Field(default=Issuer(), description="Who signs.")
    duration: str = Field(default="720h", pattern="^[0-9]+h$", description="Life of a certificate.")
    renewBefore: str = Field(
        default="240h", pattern="^[0-9]+h$", description="Renewed so long before its end."
    )


class Tls(Values):
    """Certificates on every connection, both ways."""

    enabled: bool = Field(default=False, description="Whether TLS is spoken.")
    certManager: CertManager = Field(default=CertManager(), description="Who makes them.")
    secretName: Name = Field(
        default="",
        description="Without cert-manager: a Secret with `tls.crt`, `tls.key` and `ca.crt`. Its "
        "certificate carries `serverName`.",
    )
    serverName: str = Field(
        default="",
        description="Name that certificates of all services carry, by which they know each other; "
        "empty is `<fullname>.<namespace>.svc`.",
    )
    requireClientCertificate: bool = Field(
        default=True, description="Whether clients need a certificate, too."
    )


class NetworkPolicy(Values):
    """Who may talk to whom; all else is cut off."""

    enabled: bool = Field(default=True, description="Whether there are policies.")
    clients: list[Free] = Field(
        default=[],
        description="Who may ask coordinators, as peers of a NetworkPolicy; empty is everybody.",
    )
    scrapers: list[Free] = Field(
        default=[
            {
                "namespaceSelector": {},
                "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
            }
        ],
        description="Who may read metrics.",
    )
    collectors: list[Free] = Field(
        default=[],
        description="Who the OTLP collector is; empty is anybody on its port.",
    )
    dns: list[Free] = Field(
        default=[{"namespaceSelector": {}}],
        description="Who answers names, on port 53; the default is pods of any namespace.",
    )
    apiServer: list[Free] = Field(
        default=[],
        description="Who the API server is, for our autoscaler; empty is anybody on 443 and 6443.",
    )
    download: list[Free] = Field(
        default=[
            {
                "ipBlock": {
                    "cidr": "0.0.0.0/0",
                    "except": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"],
                }
            }
        ],
        description="From where pools with `source: hub` fetch models, on port 443.",
    )


class Telemetry(Values):
    """Traces and logs."""

    otlpEndpoint: str = Field(
        default="",
        pattern=r"^(https?://[^/]+:[0-9]+)?$",
        description="OTLP/gRPC collector as `http://host:port`; empty sends no traces.",
    )
    sampleRatio: float = Field(default=0.1, ge=0, le=1, description="Share of requests traced.")
    logLevel: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log lines that are written, as JSON."
    )


class ServiceMonitor(Values):
    """For the Prometheus operator."""

    enabled: bool = Field(default=False, description="Whether there is one.")
    labels: dict[str, str] = Field(default={}, description="By which Prometheus finds it.")
    interval: str = Field(default="15s", pattern="^[0-9]+(ms|s|m)$", description="Between scrapes.")


class Dashboards(Values):
    """Dashboards as ConfigMaps, for Grafana's sidecar."""

    enabled: bool = Field(default=False, description="Whether there are any.")
    labels: dict[str, str] = Field(
        default={"grafana_dashboard": "1"}, description="By which the sidecar finds them."
    )


class Alerts(Values):
    """Alert rules for the Prometheus operator."""

    enabled: bool = Field(default=False, description="Whether there are any.")
    labels: dict[str, str] = Field(default={}, description="By which Prometheus finds them.")


class Metrics(Values):
    """Metrics and what is made of them."""

    enabled: bool = Field(default=True, description="Whether services serve metrics.")
    port: int = Field(default=9464, ge=1024, le=65535, description="Port of metrics.")
    serviceMonitor: ServiceMonitor = Field(
        default=ServiceMonitor(), description="For the Prometheus operator."
    )
    dashboards: Dashboards = Field(default=Dashboards(), description="For Grafana.")
    alerts: Alerts = Field(default=Alerts(), description="For the Prometheus operator.")


class Tests(Values):
    """What `helm test` does: it lists the models and asks for a few tokens."""

    model: str = Field(default="", description="Model to ask; empty is the only one served.")
    prompt: str = Field(default="The sky is", min_length=1, description="What is continued.")
    tokens: int = Field(default=8, ge=1, le=256, description="How many tokens are asked for.")
    apiKeySecret: SecretKey = Field(
        default=SecretKey(), description="Key of a tenant, where keys are needed."
    )
    resources: Resources = Field(
        default=Resources(
            requests={"cpu": "100m", "memory": "256Mi"},
            limits={"memory": "512Mi"},
        ),
        description="Of its pod.",
    )
