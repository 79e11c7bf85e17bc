"""The limits of one worker: its limiters, their files, the charges that wait.

With Redis there are two limiters. The limiter of this node checks an address before any other work
is done for it, without I/O.
"""

from proxy.core.usage_event import UsageEvent
from proxy.ratelimit import make_table, open_limiter
from proxy.ratelimit.batching import BatchedCharges
from proxy.ratelimit.concurrency import NodeConcurrency
from proxy.ratelimit.limiter import Charge
from proxy.ratelimit.request_limiter import Limiters, Rates, RequestLimiter
from proxy.settings.settings import Settings


class RateLimiting:
    """Nothing is opened or connected before the first request that has a limit.

    The node's table exists by then, see `prepare`.
    """

    def __init__(self, settings: Settings) -> None:
        # One folder per node: a server that replaces another one takes over its buckets.
        self._folder = folder = settings.data_dir.absolute() / "limits"
        self._near = open_limiter(redis_url="", on_error="open", folder=folder)
        self._shared = self._charges = None
        debit = self._near.debit
        if settings.redis_url:
            self._shared = open_limiter(
                redis_url=settings.redis_url, on_error=settings.limits.on_error, folder=folder
            )
            self._charges = BatchedCharges(self._shared)
            debit = self._charges.debit
        self._debit = debit
        self._concurrency = NodeConcurrency(folder / "concurrency")
        limits = settings.limits
        rates = Rates(
            all_clients=limits.global_rpm,
            address=limits.per_ip_rpm,
            token=limits.per_token_rpm,
            project=limits.per_project_rpm,
        )
        self.throttle = RequestLimiter(
            rates,
            Limiters(
                near=self._near, shared=self._shared, debit=debit, concurrency=self._concurrency
            ),
        )

    @property
    def is_up(self) -> bool:
        """Whether limits are as exact as they can be: no fallback decides."""
        return not (self._near.failing or (self._shared is not None and self._shared.failing))

    def prepare(self) -> None:
        """Create the table of the node, before the worker accepts: milliseconds, and only once."""
        make_table(self._folder)

    def start(self) -> None:
        if self._charges is not None:
            self._charges.start()

    def counted(self, read: UsageEvent) -> None:
        """Charge a read of a stored response that the ledger has counted; it was charged to no
        bucket before.
        """
        usage = read.metadata
        total = usage.get("total_tokens")
        if not isinstance(total, int):
            sides = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
            total = sum(side for side in sides if isinstance(side, int))
        self._debit([Charge(bucket, total) for bucket, _ in read.token_buckets])

    def close(self, deadline: float) -> None:
        """Charge what is left, for at most `deadline` seconds."""
        if self._charges is not None:
            self._charges.close(deadline)
        for part in (self._shared, self._near, self._concurrency):
            if part is not None:
                part.close()
