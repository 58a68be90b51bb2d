"""Requests that may be repeated: one key of one tenant means one session.

The session's name is made of tenant and key, so that whichever coordinator is
asked again finds the session in the store, and creating it twice fails there.
The name is as hard to guess as the key and the tenant's salt together. The
store keeps a digest of the query, never the key.
"""

import base64
import hashlib
import hmac
import json

from pydantic import TypeAdapter

from treedraft.coordinator.session_store.records import SessionRecord
from treedraft.coordinator.tenant import Tenant
from treedraft.core.errors import InvalidRequestError
from treedraft.core.generation import GenerateQuery

IDEMPOTENCY_KEY_REUSED = "IDEMPOTENCY_KEY_REUSED"

_QUERY = TypeAdapter(GenerateQuery)
_UNORDERED = (("stopping", "stop_token_ids"), ("sampling", "logit_bias"))
_PURPOSE = b"treedraft session of an idempotency key\0"


def session_id_of(key: str, tenant: Tenant) -> str:
    """Return the name of the session that a key stands for."""
    name = tenant.name.encode()
    material = _PURPOSE + len(name).to_bytes(4, "little") + name + key.encode()
    digest = hmac.new(tenant.salt, material, hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest[:24]).decode()


def digest_of(query: GenerateQuery) -> str:
    """Return what two queries share only if they ask for the same; empty without a key.

    What is at its default is left out: a release that lets queries say more finds the
    same digest for a query that does not, whichever release the session began at.
    """
    if not query.idempotency_key:
        return ""
    parts = _QUERY.dump_python(query, mode="json", exclude_defaults=True)
    for group, name in _UNORDERED:
        if name in parts.get(group, {}):
            parts[group][name].sort()
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def check_same(record: SessionRecord, query: GenerateQuery) -> None:
    """Raise if a session was begun by another query than this.

    Raises:
        InvalidRequestError: IDEMPOTENCY_KEY_REUSED.
    """
    if record.request.query_digest != digest_of(query):
        raise InvalidRequestError(
            "the idempotency key was used for another request",
            field="idempotency_key",
            reason=IDEMPOTENCY_KEY_REUSED,
        )
