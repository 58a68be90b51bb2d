"""Decides, from rendered network policies, who reaches whom: as a network would."""

import ipaddress
from dataclasses import dataclass, field

from tests.chart.manifests import Object, of_kind


@dataclass(frozen=True)
class Peer:
    """A pod, or an address outside the cluster."""

    labels: dict[str, str] = field(default_factory=dict)
    namespace: str = "serving"
    namespace_labels: dict[str, str] = field(default_factory=dict)
    address: str = ""

    @property
    def is_pod(self) -> bool:
        return not self.address


def reaches(objects: list[Object], source: Peer, to: Peer, port: int) -> bool:
    """Return whether a connection is let out at one end and in at the other."""
    return _lets(objects, source, to, port, "Egress") and _lets(
        objects, to, source, port, "Ingress"
    )


def _lets(objects: list[Object], here: Peer, other: Peer, port: int, way: str) -> bool:
    if not here.is_pod or here.namespace != "serving":
        return True  # none of our policies is about it
    policies = [
        item["spec"]
        for item in of_kind(objects, "NetworkPolicy")
        if way in item["spec"]["policyTypes"]
        and _has(here.labels, item["spec"]["podSelector"]["matchLabels"])
    ]
    if not policies:
        return True  # a pod without a policy is open
    side = "to" if way == "Egress" else "from"
    return any(
        _port_fits(rule, port) and _peer_fits(rule.get(side), other)
        for policy in policies
        for rule in policy.get(way.lower(), [])
    )


def _port_fits(rule: Object, port: int) -> bool:
    return any(item["port"] == port for item in rule["ports"])


def _peer_fits(peers: list[Object] | None, other: Peer) -> bool:
    return peers is None or any(_is(peer, other) for peer in peers)


def _is(peer: Object, other: Peer) -> bool:
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        return bool(other.address) and (
            _in(other.address, block["cidr"])
            and not any(_in(other.address, hole) for hole in block.get("except", []))
        )
    if not other.is_pod:
        return False
    if "namespaceSelector" in peer:
        if not _has(other.namespace_labels, peer["namespaceSelector"].get("matchLabels", {})):
            return False
    elif other.namespace != "serving":
        return False
    return _has(other.labels, peer.get("podSelector", {}).get("matchLabels", {}))


def _in(address: str, network: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(network)


def _has(labels: dict[str, str], wanted: dict[str, str]) -> bool:
    return wanted.items() <= labels.items()
