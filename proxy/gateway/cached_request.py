"""What the response cache has to do with one request, for its event and its headers."""

from dataclasses import dataclass, field, replace

from gevent import Greenlet

from proxy.cache.access import CacheAccess
from proxy.cache.flight import Flight
from proxy.cache.idempotency import KeyedRequest
from proxy.cache.key import CacheKey
from proxy.cache.policy import RequestVerdict
from proxy.cache.response_cache import ResponseCache
from proxy.core.errors import ProxyError
from proxy.core.usage_event import CacheFacts, UsageEvent
from proxy.gateway.responses import Headers


@dataclass(slots=True)
class CachedRequest:
    """One request of a project that keeps or shares responses."""

    access: CacheAccess
    verdict: RequestVerdict
    #: None: the cache cannot be used, or has nothing to do with the request.
    cache: ResponseCache | None = None
    key: CacheKey | None = None
    #: Whether a retry of the request may take its response over once its client has left.
    is_held: bool = False
    #: None: it has no `Idempotency-Key` that means something here.
    keyed: KeyedRequest | None = None
    #: What the client is told of the cache, and of its key.
    headers: Headers = field(default_factory=list)
    key_headers: Headers = field(default_factory=list)
    #: The flight that it reads.
    flight: Flight | None = None
    #: Judges the response and stores it. None: that has happened, or will not.
    storing: "Greenlet[..., None] | None" = None
    #: Why the flight of this request has sent nothing.
    refusal: ProxyError | None = None
    #: How it is served without a call of its own. None: it goes upstream.
    facts: CacheFacts | None = None
    #: The model that the response names.
    model: str | None = None
    is_event_stream: bool = False

    @property
    def all_headers(self) -> Headers:
        return [*self.headers, *self.key_headers]

    @property
    def uses_flight(self) -> bool:
        """Whether its response may have several readers, at once or one after the other."""
        return self.verdict.share or self.is_held

    def describe(self, event: UsageEvent, facts: CacheFacts) -> None:
        """Set what the event of a request says that was served without a call of its own."""
        if self.flight is not None:
            prompt, completion, self.model = self.flight.cost
            facts = replace(facts, saved_prompt_tokens=prompt, saved_completion_tokens=completion)
        event.stream = self.is_event_stream
        if event.outcome == "completed":
            event.outcome = "cached"
        event.usage_source = "cached"
        event.cache, event.metadata = facts, facts.metadata(self.model)
