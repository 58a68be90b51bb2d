"""By which names the door may be asked for.

A page on the web can have its own name point at 127.0.0.1 (DNS rebinding) and
then ask a door on the reader's machine as if it were the page's own server. The
browser still says which name it asked for. So a door that asks for nothing else,
neither key nor certificate, and that this machine alone reaches answers to this
machine's names only; every other one answers to all, unless it is told otherwise.
"""

import ipaddress
from collections.abc import Sequence

from treedraft.core.errors import PermissionDeniedError

HOST_NOT_ALLOWED = "HOST_NOT_ALLOWED"

_EVERY = "*"
_LOCAL_NAMES = ("localhost", "*.localhost", "127.0.0.1", "::1")


def hosts_of(
    allowed: Sequence[str], *, bound_to: str, advertised: str, is_guarded: bool
) -> "AllowedHosts":
    """Return the names that a door answers to.

    Args:
        allowed: as the settings name them; empty leaves it to what follows.
        bound_to: address that the door listens on.
        advertised: `host` or `host:port` that clients are told, empty for none.
        is_guarded: whether callers need a key or the door speaks TLS.
    """
    if allowed:
        return AllowedHosts(allowed)
    if is_guarded or not _is_loopback(bound_to):
        return AllowedHosts((_EVERY,))
    return AllowedHosts((*_LOCAL_NAMES, bound_to, advertised))


def _is_loopback(host: str) -> bool:
    bare = host.strip("[]")
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return bare == "localhost"


class AllowedHosts:
    """Names, `*.` before a domain standing for all below it, `*` alone for all there are."""

    def __init__(self, names: Sequence[str]) -> None:
        """Answer to these names; ports do not count."""
        bare = {_without_port(name) for name in names} - {""}
        self._is_open = _EVERY in bare
        self._names = frozenset(bare)
        self._domains = tuple(name[1:] for name in bare if name.startswith("*."))

    def check(self, host: bytes | None) -> None:
        """Raise unless a request may name this host; one that names none is no browser's.

        Raises:
            PermissionDeniedError: HOST_NOT_ALLOWED.
        """
        if self._is_open or host is None:
            return
        name = _without_port(host.decode("latin-1"))
        if name not in self._names and not name.endswith(self._domains):
            raise PermissionDeniedError(
                "the door does not answer to this host name; allowed_hosts says to which",
                reason=HOST_NOT_ALLOWED,
            )


def _without_port(host: str) -> str:
    name, bracket, _ = host.strip().lower().partition("]")
    if bracket:
        return name.lstrip("[")
    # Without brackets, an address with several colons is one of IPv6 and has no port.
    return name.split(":")[0] if name.count(":") == 1 else name
