"""The caps of the engine: no client can make the gateway hold or wait without end."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what one client may make the gateway hold or wait for."""

    head_bytes: int = 128 * 1024
    head_s: float = 10.0
    keep_alive_s: float = 120.0
    """How long a connection may stay open without a request."""
    request_body_bytes: int = 1024 * 1024
    """The largest body that is buffered before a verdict."""
    unpaid_bodies: int = 64
    """How many such bodies are buffered at once, over all connections of the process."""
    unpaid_bodies_per_client: int = 8
    """How many of them for one client."""
    keep_alive_body_bytes: int = 64 * 1024
    """A refused request with a body up to this size keeps its connection."""
    body_s: float = 60.0
    """How long such a body may take, and one that is not buffered before each byte adds to it."""
    upload_bytes_per_s: int = 1024
    """A body that goes on to the upstream has one second more for each so many bytes."""
    discard_bytes: int = 8 * 1024 * 1024
    discard_s: float = 5.0
    unread_s: float = 60.0
    """How long a client may take nothing of an answer that waits for it."""
    download_bytes_per_s: int = 1024
    """Taking so many bytes of it gives one second of that time back."""
    upstream_idle_s: float = 30.0
    """An upstream connection that carries nothing is closed after that, at most twice that."""
    tls_handshake_s: float = 10.0
    http2_control_frames: int = 200
    """How many frames without a purpose a client has free; each answer taken gives one back."""
    inspected_body_bytes: int = 64 * 1024
    """How much of a streamed body is kept on the flow for the inspection tools."""
    backlog_bytes: int = 256 * 1024
    """How much of one body is held while nobody takes it; then its sender waits."""
