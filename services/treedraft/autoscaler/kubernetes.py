"""The Kubernetes API, through its official client: the only module that knows it.

Sizes are read and written through the scale sub-resource under the version that
was read, so that a change of somebody else is never written over. A 409 is a
WriteConflictError, everything else that goes wrong an UnavailableError. All
calls block, with a time limit.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

import structlog
from kubernetes import client
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException, load_incluster_config, load_kube_config
from kubernetes.informer import MODIFIED, SharedInformer
from urllib3.exceptions import HTTPError

from treedraft.autoscaler.settings import WorkloadSettings
from treedraft.autoscaler.workloads import LeaseRecord, Scale, WriteConflictError
from treedraft.core.errors import InvalidRequestError, UnavailableError

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_COMPONENT = "treedraft-autoscaler"
_TIMEOUT_SECONDS = 5.0

_log = structlog.get_logger(__name__)


def load_client() -> client.ApiClient:
    """Return a client with this pod's service account, or with the user's kubeconfig.

    Raises:
        InvalidRequestError: there is neither (NO_KUBERNETES).
    """
    configuration = client.Configuration()
    try:
        load_incluster_config(client_configuration=configuration)
    except ConfigException:
        try:
            load_kube_config(client_configuration=configuration)
        except (ConfigException, OSError) as error:
            raise InvalidRequestError(
                "this is no pod with a service account, and there is no kubeconfig",
                reason="NO_KUBERNETES",
            ) from error
    return client.ApiClient(configuration)


def own_namespace(configured: str) -> str:
    """Return the configured namespace, else that of this pod, else `default`."""
    if configured:
        return configured
    try:
        return _NAMESPACE_FILE.read_text().strip()
    except OSError:
        return "default"


@contextmanager
def _errors_translated(what: str) -> Iterator[None]:
    try:
        yield
    except ApiException as error:
        if error.status == HTTPStatus.CONFLICT:
            raise WriteConflictError(what) from error
        raise UnavailableError(
            f"Kubernetes: cannot {what}: {error.status} {error.reason}",
            reason="KUBERNETES_REFUSED",
        ) from error
    except (HTTPError, OSError) as error:
        raise UnavailableError(
            f"Kubernetes: cannot {what}: {type(error).__name__}", reason="KUBERNETES_UNREACHABLE"
        ) from error


class KubernetesWorkloads:
    """Workloads of one namespace."""

    def __init__(
        self, api: client.ApiClient, namespace: str, *, resync_seconds: float = 300.0
    ) -> None:
        """Use an API client; watches are listed anew every `resync_seconds`."""
        self._apps = client.AppsV1Api(api)
        self._core = client.CoreV1Api(api)
        self._namespace = namespace
        self._resync_seconds = resync_seconds
        self._informers: list[SharedInformer] = []
        self._costs: dict[str, int] = {}

    def watch(self, workload: WorkloadSettings, on_change: Callable[[], None]) -> None:
        """Call back, from a thread of its own, when the workload's wanted size changes."""
        listing = (
            self._apps.list_namespaced_stateful_set
            if workload.kind == "StatefulSet"
            else self._apps.list_namespaced_deployment
        )
        informer = SharedInformer(
            listing,
            namespace=self._namespace,
            resync_period=self._resync_seconds,
            field_selector=f"metadata.name={workload.name}",
        )
        known: list[int | None] = [None]

        def compare(found: Any) -> None:
            replicas = found.spec.replicas
            if replicas != known[0]:
                known[0] = replicas
                on_change()

        informer.add_event_handler(MODIFIED, compare)
        informer.start()
        self._informers.append(informer)

    def read_scale(self, workload: WorkloadSettings) -> Scale:
        """Return the wanted replicas of a workload."""
        read = (
            self._apps.read_namespaced_stateful_set_scale
            if workload.kind == "StatefulSet"
            else self._apps.read_namespaced_deployment_scale
        )
        with _errors_translated(f"read the scale of {workload.name}"):
            found = read(workload.name, self._namespace, _request_timeout=_TIMEOUT_SECONDS)
        replicas = found.spec.replicas if found.spec else None
        return Scale(replicas or 0, _version(found.metadata))

    def write_scale(self, workload: WorkloadSettings, scale: Scale) -> None:
        """Set the wanted replicas of a workload, under the version that was read."""
        write = (
            self._apps.replace_namespaced_stateful_set_scale
            if workload.kind == "StatefulSet"
            else self._apps.replace_namespaced_deployment_scale
        )
        body = client.V1Scale(
            metadata=client.V1ObjectMeta(
                name=workload.name, namespace=self._namespace, resource_version=scale.version
            ),
            spec=client.V1ScaleSpec(replicas=scale.replicas),
        )
        with _errors_translated(f"scale {workload.name}"):
            write(workload.name, self._namespace, body, _request_timeout=_TIMEOUT_SECONDS)

    def mark_costs(self, workload: WorkloadSettings, costs: Mapping[str, int]) -> None:
        """Annotate the pods of a Deployment whose cost has changed; a StatefulSet has no choice."""
        if workload.kind != "Deployment":
            return
        self._costs = {pod: cost for pod, cost in self._costs.items() if pod in costs}
        for pod, cost in costs.items():
            if self._costs.get(pod) == cost:
                continue
            self._mark(pod, cost)
            self._costs[pod] = cost

    def _mark(self, pod: str, cost: int) -> None:
        body = {"metadata": {"annotations": {DELETION_COST: str(cost)}}}
        with _errors_translated(f"annotate {pod}"):
            try:
                self._core.patch_namespaced_pod(
                    pod, self._namespace, body, _request_timeout=_TIMEOUT_SECONDS
                )
            except ApiException as error:
                # Gone, though coordinators do not know yet.
                if error.status != HTTPStatus.NOT_FOUND:
                    raise

    def tell(self, workload: WorkloadSettings, reason: str, message: str) -> None:
        """Leave an event at the workload."""
        now = datetime.now(UTC)
        event = client.CoreV1Event(
            metadata=client.V1ObjectMeta(
                generate_name=f"{workload.name}.", namespace=self._namespace
            ),
            involved_object=client.V1ObjectReference(
                api_version="apps/v1",
                kind=workload.kind,
                name=workload.name,
                namespace=self._namespace,
            ),
            reason=reason,
            message=message[:1024],
            type="Normal",
            source=client.V1EventSource(component=_COMPONENT),
            first_timestamp=now,
            last_timestamp=now,
            count=1,
        )
        with _errors_translated(f"leave an event at {workload.name}"):
            self._core.create_namespaced_event(
                self._namespace, event, _request_timeout=_TIMEOUT_SECONDS
            )

    def close(self) -> None:
        """Tell the watches to stop; each ends with what its server sends next."""
        for informer in self._informers:
            # `stop` joins a thread that may be reading: not ours to wait for.
            threading.Thread(target=informer.stop, daemon=True).start()
        self._informers.clear()


class KubernetesLeases:
    """One Lease of a namespace."""

    def __init__(self, api: client.ApiClient, namespace: str, name: str) -> None:
        """Use the Lease `name`."""
        self._api = client.CoordinationV1Api(api)
        self._namespace = namespace
        self._name = name

    def read(self) -> LeaseRecord | None:
        """Return the lease as it is now."""
        with _errors_translated(f"read the lease {self._name}"):
            try:
                return _record(
                    self._api.read_namespaced_lease(
                        self._name, self._namespace, _request_timeout=_TIMEOUT_SECONDS
                    )
                )
            except ApiException as error:
                if error.status == HTTPStatus.NOT_FOUND:
                    return None
                raise

    def create(self, record: LeaseRecord) -> LeaseRecord:
        """Create the lease."""
        with _errors_translated(f"create the lease {self._name}"):
            return _record(
                self._api.create_namespaced_lease(
                    self._namespace, self._body(record), _request_timeout=_TIMEOUT_SECONDS
                )
            )

    def replace(self, record: LeaseRecord) -> LeaseRecord:
        """Write over the version that was read."""
        with _errors_translated(f"renew the lease {self._name}"):
            return _record(
                self._api.replace_namespaced_lease(
                    self._name,
                    self._namespace,
                    self._body(record),
                    _request_timeout=_TIMEOUT_SECONDS,
                )
            )

    def _body(self, record: LeaseRecord) -> client.V1Lease:
        return client.V1Lease(
            metadata=client.V1ObjectMeta(
                name=self._name,
                namespace=self._namespace,
                resource_version=record.version or None,
            ),
            spec=client.V1LeaseSpec(
                holder_identity=record.holder,
                lease_duration_seconds=max(1, round(record.lease_seconds)),
                renew_time=datetime.fromisoformat(record.renewals),
                lease_transitions=record.transitions,
            ),
        )


def _record(lease: client.V1Lease) -> LeaseRecord:
    spec = lease.spec or client.V1LeaseSpec()
    return LeaseRecord(
        holder=spec.holder_identity or "",
        lease_seconds=float(spec.lease_duration_seconds or 1),
        renewals=spec.renew_time.isoformat() if spec.renew_time else "",
        transitions=spec.lease_transitions or 0,
        version=_version(lease.metadata),
    )


def _version(metadata: client.V1ObjectMeta | None) -> str:
    return (metadata.resource_version if metadata else None) or ""
