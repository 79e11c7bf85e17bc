"""What one worker takes at the door of the relay."""

from dataclasses import dataclass, field

from proxy.web.held import HeldBodies


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Bytes of any body, and of a buffered JSON body."""

    request_bytes: int
    json_bytes: int
    #: Of all bodies that are held whole.
    held: HeldBodies = field(default_factory=lambda: HeldBodies(512 * 1024 * 1024))
    trusted_proxies: int
    #: Seconds of an upstream's silence between two comments of ours in an event stream; 0: none.
    sse_keepalive: float = 0.0
