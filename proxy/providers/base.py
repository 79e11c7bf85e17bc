"""The contract of a provider: it knows the addresses, headers and dialect of one kind of upstream.

A provider turns the client's request into the request that goes out. It always starts from the
original, so that a second attempt at another target inherits nothing from the first.
"""

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from proxy.providers.config import MappingConfig, ProviderConfig

#: Header lines in order, with duplicates. The server's parser makes inbound names upper case.
HeaderList = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class OutboundRequest:
    """A request to an upstream. ``target`` is path and query, raw, never re-encoded.

    ``body`` is bytes (complete), None (no body), or an iterable of pieces as they arrive from the
    client. ``chunked`` says that the length of such a body is unknown.
    """

    method: str
    target: bytes
    headers: HeaderList
    body: bytes | Iterable[bytes] | None
    chunked: bool = False


#: Before the scheme of an origin: a connection goes to public addresses only.
PUBLIC_ONLY: Final = "public+"


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What an upstream says of a model. None: it says nothing."""

    #: The most that its `max_tokens` may be.
    max_tokens: int | None = None
    #: The levels of effort that it takes. Empty: it takes no effort.
    efforts: frozenset[str] | None = None
    #: The `type`s of `thinking` that it takes.
    thinking: frozenset[str] | None = None


NO_FACTS: Final = ModelFacts()
_NO_EDITS: Final = MappingConfig()
_DEFAULT_CONFIG: Final = ProviderConfig()


@dataclass(frozen=True, slots=True)
class Target:
    """One model at one provider: where a request may be sent, and what is changed for it there.

    ``origin`` is ``scheme://host[:port]``; ``prefix`` has no slash at its end. An origin that an
    operator did not vouch for has :data:`PUBLIC_ONLY` before its scheme: so it has connections of
    its own, which lead to public addresses only, and whatever sends to it cannot forget that.
    """

    origin: str
    host: str
    prefix: str
    #: The provider's name. "default" is the upstream of projects with a key of their own.
    provider: str = "default"
    provider_type: str = "openai"
    #: The provider's name of the model. None: the body keeps what the client wrote.
    model: str | None = None
    edits: MappingConfig = _NO_EDITS
    config: ProviderConfig = _DEFAULT_CONFIG
    #: Whether it is a configured provider with keys of its own, and not the upstream of projects
    #: with a key of theirs.
    shared: bool = False
    #: Whether another provider was tried before for the request. Signed thinking in its history is
    #: that one's, and cannot be read here.
    foreign: bool = False
    facts: ModelFacts = NO_FACTS
    #: Whether the request is one of Anthropic's dialect that is translated to a chat for it.
    from_messages: bool = False

    @property
    def dialect(self) -> str:
        """The name of its provider in the table of providers."""
        return f"messages+{self.provider_type}" if self.from_messages else self.provider_type

    @classmethod
    def from_url(cls, base_url: str) -> "Target":
        """Parse ``https://host/prefix``. ``/v1`` at its end is part of the client's path already,
        so it is left out.
        """
        scheme, _, rest = base_url.rstrip("/").removesuffix("/v1").partition("://")
        host, slash, prefix = rest.partition("/")
        return cls(f"{scheme}://{host}", host, (slash + prefix).rstrip("/"))

    def public_only(self) -> "Target":
        """Return the target with connections to public addresses only."""
        return replace(self, origin=PUBLIC_ONLY + self.origin.removeprefix(PUBLIC_ONLY))

    def anywhere(self) -> "Target":
        """Return the target with connections to any address."""
        return replace(self, origin=self.origin.removeprefix(PUBLIC_ONLY))


@dataclass(frozen=True, slots=True)
class Translation:
    """That a call goes out in another dialect, and what its response's translation must know."""

    #: Whether the client asked for the usage at the end of a stream.
    include_usage: bool
    #: The HTTP status that an error event stands for while there was no output yet. It takes the
    #: event's data.
    error_status: Callable[[bytes], int]
    #: Called with the body of a 400. Returns whether it says that the model does not take one of
    #: the parameters: prepared again, the call goes out without it.
    note_refusal: Callable[[bytes], bool] = lambda _: False
    #: Whether the client asked for a stream.
    streams: bool = False


@dataclass(slots=True)
class PreparedCall:
    """The request that the transport sends, and its URL, which begins with the target's origin.

    It is not changed once it is made. It is not frozen, since one is made for every request, and a
    frozen one costs a call per field.
    """

    url: str
    request: OutboundRequest = field(repr=False)
    #: Names of the parameters that were left out, since the provider does not take them.
    dropped: tuple[str, ...] = ()
    #: None: the upstream speaks the client's dialect.
    translation: Translation | None = None


class EditableBody(Protocol):
    """A whole body that was scanned once, and is edited for each attempt from its original text."""

    @property
    def model(self) -> str | None:
        """The model that the client wrote."""
        ...

    def value(self, name: str) -> Any:
        """The value of a top-level member; None when it is absent.

        Note: it is parsed at once. A value of many MiB holds the event loop.
        """
        ...

    def is_set(self, name: str) -> bool:
        """Whether the value of a top-level member is there, and not null. Reads nothing of it."""
        ...

    def short(self, name: str) -> Any:
        """As :meth:`value`, but None for one of more than some KiB."""
        ...

    def document(self) -> Mapping[str, Any]:
        """The decoded body, the same object for each attempt: it must not be changed.

        Strings of many KiB in it are a :class:`proxy.usage.json_text.LongString`.

        Lets other greenlets run if the body is large. Raises ClientError: it is no JSON, or cannot
        be held.
        """
        ...

    def edited(
        self,
        *,
        model: str | None = None,
        defaults: Mapping[str, Any] | None = None,
        override: Mapping[str, Any] | None = None,
        drop: Set[str] = frozenset(),
        rename: Mapping[str, str] | None = None,
    ) -> bytes:
        """Return the body with these changes spliced in. All other bytes stay as they are."""
        ...


class BodyTransform(Protocol):
    """Transforms a body: bytes in, bytes out, perhaps later or fewer.

    Both methods raise UpstreamError for a body that cannot be transformed: the response breaks off.
    """

    @property
    def at_event_boundary(self) -> bool:
        """Whether an event of the proxy, sent now, would stand alone."""
        ...

    def feed(self, chunk: bytes) -> bytes: ...

    def end(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class ResponseTransform:
    """A response in the dialect of the client: its headers, and what transforms its body."""

    headers: HeaderList
    body: BodyTransform
    #: None: the upstream's status is kept.
    status: int | None = None


class Provider(Protocol):
    """One kind of upstream."""

    def prepare(
        self,
        request: OutboundRequest,
        target: Target,
        upstream_key: str | None,
        body: EditableBody | None = None,
    ) -> PreparedCall:
        """Return ``request`` as ``target`` expects it, authorised by ``upstream_key``.

        Without an upstream key, the client's own authorisation stays. ``body`` is the scan of
        ``request.body`` where that is to be edited for the target; None: it goes out as it is.

        Raises ClientError ``endpoint_not_supported`` for a path that the provider lacks, and
        ``invalid_request`` for a parameter that it lacks where its `params` is `strict`.
        """
        ...

    def transform(
        self,
        target: Target,
        path: str,
        status: int,
        headers: HeaderList,
        translation: Translation | None = None,
    ) -> ResponseTransform | None:
        """Return how the response with this head becomes the client's. None: its bytes pass.

        ``path`` is that of the client's request, without the query; ``translation`` is that of the
        prepared call.
        """
        ...
