"""Ways to find things in rendered objects."""

from typing import Any

Object = dict[str, Any]

COMPONENT = "app.kubernetes.io/component"
POOL = "treedraft/pool"


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [item for item in objects if item["kind"] in kinds]


def named(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = [item for item in of_kind(objects, kind) if item["metadata"]["name"] == name]
    return found


def workloads(objects: list[Object]) -> list[Object]:
    return of_kind(objects, "Deployment", "StatefulSet")


def pods(objects: list[Object]) -> list[Object]:
    """Return all pods, those of workloads as their template."""
    return [
        *(item["spec"]["template"] for item in workloads(objects)),
        *of_kind(objects, "Pod"),
    ]


def component(item: Object) -> str:
    return item["metadata"]["labels"][COMPONENT]


def container(pod: Object) -> Object:
    (only,) = pod["spec"]["containers"]
    return only


def pod_of(objects: list[Object], which: str, pool: str = "") -> Object:
    (found,) = [
        pod
        for pod in pods(objects)
        if component(pod) == which and pod["metadata"]["labels"].get(POOL, "") == pool
    ]
    return found


def environment(pod: Object) -> dict[str, str]:
    """Return the variables of a pod as its process would see them."""
    values = {"POD_IP": "10.1.2.3", "POD_NAME": "pod-0"}
    for variable in container(pod).get("env", []):
        text = variable.get("value")
        if text is None:
            text = values.get(variable["name"], "redis://from-a-secret")
        for name, value in values.items():
            text = text.replace(f"$({name})", value)
        values[variable["name"]] = text
    return values
