"""What both ends of the gRPC transport agree on: names, metadata, channel arguments."""

from __future__ import annotations

from typing import Final

from sofs.constants import MESSAGE_BYTES_MAX

METHODS: Final = {
    "file": "/sofs.v1.File/Session",
    "volume": "/sofs.v1.Volume/Session",
    "resume_key": "/sofs.v1.ResumeKey/Session",
    "witness": "/sofs.v1.Witness/Session",
    "dns": "/sofs.v1.Dns/Session",
    "cluster": "/sofs.v1.Cluster/Session",
}
SERVICES: Final = {method: service for service, method in METHODS.items()}

CREDENTIAL_KEY: Final = "sofs-credential"
ACCEPTED_KEY: Final = "sofs-accepted"  # In the server's initial metadata: this call is a stream.

STREAMS_MAX: Final = 16_384  # A listener; beyond it connects fail with Unavailable.
KEEPALIVE_MS: Final = 20_000
KEEPALIVE_TIMEOUT_MS: Final = 10_000

_COMMON: Final = (
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.max_pings_without_data", 0),
)
SERVER_OPTIONS: Final = (
    *_COMMON,
    # Else a new process could share the port of a frozen one, and clients would reach either.
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
)
_CHANNEL: Final = (
    *_COMMON,
    # A connection of its own for each channel: a dead one delays nobody else's connect.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
)


def channel_options(timeout_ms: int) -> tuple[tuple[str, int], ...]:
    """Return the arguments of a channel that makes one attempt to connect and has ``timeout_ms``
    for it. gRPC calls the time that an attempt has its least back-off; the back-off itself never
    passes, because a channel is closed after its first failure."""
    return (*_CHANNEL, ("grpc.min_reconnect_backoff_ms", timeout_ms))
