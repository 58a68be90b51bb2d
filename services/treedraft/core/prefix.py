"""Names for prefixes: a chained hash per page of committed tokens.

The hash of a page covers all pages before it, and the chain is rooted in the
model's fingerprint and the tenant's salt, so that equal hashes mean equal KV
and no tenant can tell from timing what another one has asked.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

SHORT_HASH_BYTES = 8


def chain_root(fingerprint: str, tenant_salt: bytes) -> bytes:
    """Return the hash that the chain of one model and tenant starts from."""
    model = hashlib.sha256(fingerprint.encode()).digest()
    return hashlib.sha256(model + hashlib.sha256(tenant_salt).digest()).digest()


def extend_chain(parent: bytes, page_token_ids: Sequence[int]) -> bytes:
    """Return the hash of the page that holds these tokens after `parent`."""
    tokens = np.asarray(page_token_ids, dtype="<u4").tobytes()
    return hashlib.sha256(parent + tokens).digest()


def page_hashes(
    token_ids: Sequence[int], *, block_size: int, fingerprint: str, tenant_salt: bytes
) -> list[bytes]:
    """Return the hash of every full page of the tokens, first page first."""
    parent = chain_root(fingerprint, tenant_salt)
    hashes = []
    for start in range(0, len(token_ids) - block_size + 1, block_size):
        parent = extend_chain(parent, token_ids[start : start + block_size])
        hashes.append(parent)
    return hashes


def short_hash(page_hash: bytes) -> int:
    """Return the first 8 bytes of a hash as a number, as workers report them."""
    return int.from_bytes(page_hash[:SHORT_HASH_BYTES], "little")
