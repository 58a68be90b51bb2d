"""What to do next, by the stable reason of an error."""

from collections.abc import Mapping
from typing import Final

HINTS: Final[Mapping[str, str]] = {
    "UNAVAILABLE": "is it running? `treedraft up` starts a cluster on this machine",
    "NO_TARGET": "targets load for a while after they start; `treedraft models` shows who is there",
    "UNKNOWN_MODEL": "`treedraft models` lists what is served",
    "MODEL_REQUIRED": "name one with --model; `treedraft models` lists what is served",
    "UNAUTHENTICATED": "give --api-key, or TREEDRAFT_API_KEY; `treedraft keys new` makes a key",
    "TLS_HANDSHAKE_FAILED": "--ca names the authority, --cert and --key your own certificate; "
    "docs/security.md",
    "TOKENIZER_MISMATCH": "take a drafter with the target's tokenizer, or --draft lookup",
    "MODEL_NOT_FOUND": "give a hub id, a folder or a .gguf file; `treedraft fetch` gets ours",
    "PROMPT_TOO_LONG": "shorten it; `treedraft models` shows the context of each model",
    "TOO_MANY_SESSIONS": "wait and ask again, or add targets",
    "QUEUE_FULL": "wait and ask again, or add targets",
    "FIRST_TOKEN_LATE": "wait and ask again, or add targets",
    "KV_POOL_FULL": "wait and ask again, or ask for fewer tokens",
    "DEADLINE_EXCEEDED": "is it overloaded? `treedraft top` shows",
    "BIND_FAILED": "something listens there already; choose another --port, or 0 for any",
    "UNKNOWN_SETTING": "docs/architecture.md says what there is; names are as in --set group.name",
    "TRACE_STORE_UNREADABLE": "it is a cache: delete it, and new traces go into a new one",
    "AMBIGUOUS_TRACE": "give more of the id; `treedraft trace` lists them",
}
