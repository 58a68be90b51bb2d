"""Channels to other services: one per peer, kept alive, retried with care.

Keepalive pings find a peer that vanished without a word within about 25 s; the
server side allows for their rate. Only RPCs that read are retried, and only
when the peer could not be reached: everything else is decided by whoever knows
what the call meant.

A name that stands for several addresses, as a headless Service's does, can be a
set of peers: then calls go to each in turn, and one that is away is left out.
"""

import json

import grpc

from treedraft.rpc.tls import channel_credentials
from treedraft.settings import TlsSettings

KEEPALIVE_TIME_MS = 20_000
KEEPALIVE_TIMEOUT_MS = 5_000
MEBIBYTE = 1 << 20

_IDEMPOTENT = (
    ("treedraft.v1.TargetService", "DescribeModel"),
    ("treedraft.v1.CoordinatorService", "ListModels"),
    ("treedraft.v1.CoordinatorService", "DescribeCluster"),
    ("treedraft.v1.CoordinatorService", "DescribeRollout"),
)
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": service, "method": method} for service, method in _IDEMPOTENT],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
_BALANCED = {**_SERVICE_CONFIG, "loadBalancingConfig": [{"round_robin": {}}]}


def open_channel(
    endpoint: str,
    *,
    tls: TlsSettings | None = None,
    max_message_mb: int = 4,
    max_receive_mb: int | None = None,
    is_balanced: bool = False,
) -> grpc.aio.Channel:
    """Return a channel to `host:port`, connected at the first call.

    Call it on the event loop that will use the channel.

    Args:
        endpoint: whom to dial.
        tls: certificates, whose files are read now; None or none speaks plaintext.
        max_message_mb: largest message in either direction, in MiB.
        max_receive_mb: a different limit for messages received.
        is_balanced: whether all addresses of a name are peers that share the calls.

    Raises:
        UnavailableError: the files of `tls` cannot be used.
    """
    receive_mb = max_message_mb if max_receive_mb is None else max_receive_mb
    options: list[tuple[str, int | str]] = [
        ("grpc.max_send_message_length", max_message_mb * MEBIBYTE),
        ("grpc.max_receive_message_length", receive_mb * MEBIBYTE),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # A peer that restarts is back in a second, not after minutes of
        # back-off, and a new channel does not inherit the back-off of an old.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.use_local_subchannel_pool", 1),
        # Services of one cluster: no proxy of the environment in between.
        ("grpc.enable_http_proxy", 0),
        ("grpc.service_config", json.dumps(_BALANCED if is_balanced else _SERVICE_CONFIG)),
    ]
    if tls is None or not tls.is_spoken:
        return grpc.aio.insecure_channel(endpoint, options=options)
    if tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return grpc.aio.secure_channel(endpoint, channel_credentials(tls), options=options)
