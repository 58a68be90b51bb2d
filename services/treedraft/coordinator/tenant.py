"""Who a request is for: a tenant, with its salt and its limits.

The salt keeps tenants apart below the door: prefixes in the KV cache and what
lookup remembers are found by those of the same salt only. It is an HMAC of the
tenant's name under a secret of the deployment, so every coordinator derives
the same one, and nobody who knows the name alone can.
"""

import hashlib
import hmac
from dataclasses import dataclass, field

_SALT_PURPOSE = b"treedraft tenant salt\0"


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """What a tenant may ask for; 0 sets no limit.

    Tokens are those of prompt and output. A day is one of UTC.
    """

    requests_at_once: int = 0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    tokens_per_day: int = 0

    @property
    def is_unlimited(self) -> bool:
        """Whether there is nothing to count."""
        return self == TenantLimits()


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant; the anonymous one has neither name nor salt."""

    name: str = ""
    salt: bytes = field(default=b"", repr=False)
    limits: TenantLimits = field(default_factory=TenantLimits)


ANONYMOUS = Tenant()


def derive_salt(secret: bytes, name: str) -> bytes:
    """Return the salt of a tenant."""
    return hmac.new(secret, _SALT_PURPOSE + name.encode(), hashlib.sha256).digest()
