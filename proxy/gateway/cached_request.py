"""What the response cache has to do with one request, for its event and its headers."""

from dataclasses import dataclass, field

from proxy.cache.access import CacheAccess
from proxy.cache.key import CacheKey
from proxy.cache.policy import RequestVerdict
from proxy.core.usage_event import CacheFacts, UsageEvent
from proxy.gateway.responses import Headers


@dataclass(slots=True)
class CachedRequest:
    """One request of a project that keeps responses."""

    access: CacheAccess
    verdict: RequestVerdict
    #: None: the request is neither looked up nor kept.
    key: CacheKey | None = None
    #: What the client is told of the cache.
    headers: Headers = field(default_factory=list)
    #: How it was served without a call of its own. None: it went upstream.
    facts: CacheFacts | None = None
    #: The model that a stored response names.
    model: str | None = None
    is_event_stream: bool = False

    def describe(self, event: UsageEvent, facts: CacheFacts) -> None:
        """Set what the event of a request says that was served without a call of its own."""
        event.stream = self.is_event_stream
        if event.outcome == "completed":
            event.outcome = "cached"
        event.usage_source = "cached"
        event.cache, event.metadata = facts, facts.metadata(self.model)
