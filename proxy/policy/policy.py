"""The rules of one access token, compiled once from the documents of its project and its tokens.

Documents are the policy fields of the project, of the tokens that the token was minted from, and of
the token itself, as the management API stored them. Each can only narrow: a request must satisfy
all.

Note: a rule that cannot be read (written by a newer version, or by hand) must never be ignored.
With one such document the policy refuses every request.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from proxy.core.errors import ClientError, ProxyError
from proxy.policy.addresses import Addresses
from proxy.policy.endpoints import AMBIGUOUS, Endpoints, plain_segments
from proxy.policy.fields import read_document
from proxy.policy.headers import ForwardedHeaders, RequiredHeaders
from proxy.policy.models import NAMING, Models, models_in_body, models_in_target
from proxy.policy.origins import Origins
from proxy.policy.params import Params

Document = Mapping[str, Any]

#: Frameworks take the method, or the path, from these headers, past a rule about it.
_OTHER_METHODS = frozenset({"X-HTTP-METHOD-OVERRIDE", "X-HTTP-METHOD", "X-METHOD-OVERRIDE"})
_OTHER_PATHS = frozenset({"X-ORIGINAL-URL", "X-REWRITE-URL"})


class Head(Protocol):
    """The head of a request: header names in upper case, the target raw."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    client_ip: str

    @property
    def path(self) -> str: ...

    @property
    def upgrades(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules for a request, and how its response is handled.

    A kind of rule has one member per document that sets it; all members must allow the request.
    """

    #: Whether a response is read to its end after the client has left, for its usage.
    drain_on_disconnect: bool = False
    #: Whether streamed chats are made to report their usage.
    inject_usage: bool = False
    #: Whether responses in flight end when the token is revoked or expires, and when its
    #: ``max_tokens_total`` is used up.
    cut_on_revoke: bool = True
    cut_in_flight: bool = False
    #: Whether tokens may be minted from this one.
    can_mint: bool = False
    #: Whether :meth:`check_head` has anything to do.
    restricts: bool = False
    #: The top-level parameters that :meth:`check_values` needs; it has nothing to do if empty.
    reads: frozenset[str] = frozenset()
    addresses: tuple[Addresses, ...] = ()
    origins: tuple[Origins, ...] = ()
    required: tuple[RequiredHeaders, ...] = ()
    methods: tuple[frozenset[str], ...] = ()
    endpoints: tuple[Endpoints, ...] = ()
    models: tuple[Models, ...] = ()
    params: tuple[Params, ...] = ()
    forwarded: tuple[ForwardedHeaders, ...] = ()
    #: Why the documents cannot be read, or ``""``.
    unreadable: str = ""

    @classmethod
    def compile(cls, project: Document, tokens: Sequence[Document] = ()) -> "Policy":
        """Compile the documents. Never raises.

        ``tokens`` has the token's own document first, then those of its ancestors.
        """
        if all(document == {} for document in (project, *tokens)):
            return cls()
        try:
            own = read_document(project, "project")
            minted = [read_document(token, "token") for token in tokens]
        except ValueError as error:
            return cls(restricts=True, unreadable=str(error))
        layers = [own, *minted]

        def every(field: str) -> list[Any]:
            return [layer[field] for layer in layers if field in layer]

        return cls(
            drain_on_disconnect=own.get("on_disconnect") == "drain",
            inject_usage=own.get("stream_usage") == "inject",
            cut_on_revoke=own.get("on_revoke") != "finish",
            cut_in_flight=own.get("cut_in_flight", False),
            can_mint=bool(minted) and all(token.get("can_mint", False) for token in minted),
            restricts=any(field in layer for layer in layers for field in _HEAD_FIELDS),
            reads=(NAMING if every("allowed_models") else frozenset[str]()).union(
                *every("allowed_params")
            ),
            addresses=tuple(map(Addresses, every("allowed_ips"))),
            origins=tuple(map(Origins, every("allowed_origins"))),
            required=tuple(map(RequiredHeaders, every("required_headers"))),
            methods=tuple(map(frozenset, every("allowed_methods"))),
            endpoints=tuple(map(Endpoints, every("allowed_endpoints"))),
            models=tuple(map(Models, every("allowed_models"))),
            params=tuple(map(Params, every("allowed_params"))),
            forwarded=tuple(map(ForwardedHeaders, every("forwarded_headers"))),
        )

    def check_client(self, head: Head) -> None:
        """Check the client: address, origin, required headers.

        Raises ClientError ``ip_not_allowed``, ``origin_required``, ``origin_not_allowed``,
        ``invalid_request``; ProxyError ``internal_error`` when the rules cannot be read.
        """
        if self.unreadable:
            raise ProxyError(f"the rules of an access token cannot be read: {self.unreadable}")
        if not all(addresses.allow(head.client_ip) for addresses in self.addresses):
            raise ClientError(code="ip_not_allowed")
        if self.origins:
            given = [value for name, value in head.headers if name == "ORIGIN"]
            for origins in self.origins:
                origins.check(given)
        for required in self.required:
            required.check(head.headers)

    def check_head(self, head: Head) -> None:
        """Check the client, then the rest of the head.

        Raises ClientError ``method_not_allowed``, ``endpoint_not_found``, ``model_not_allowed``
        besides.
        """
        self.check_client(head)
        if self.methods:
            self._check_method(head)
        if self.endpoints:
            self._check_endpoint(head)
        if self.models:
            named = models_in_target(head.path, head.target.partition("?")[2])
            if head.upgrades and not named:
                named = [""]  # a WebSocket has no body that could name one
            for models in self.models:
                for name in named:
                    models.check(name)

    def check_values(self, values: Mapping[str, Any]) -> None:
        """Check the top-level parameters of a body, at least those in :attr:`reads`.

        Raises ClientError ``model_not_allowed``, ``param_not_allowed``.
        """
        if self.models:
            for param, name in models_in_body(values):
                for models in self.models:
                    models.check(name, param)
        for params in self.params:
            params.check(values)

    def allows_model(self, name: str) -> bool:
        """Whether every rule about models allows this name."""
        return all(models.allow(name) for models in self.models)

    def forwards(self, name: str) -> bool:
        """Whether a request header may go upstream. Call it only if there is :attr:`forwarded`."""
        return all(names.allow(name) for names in self.forwarded)

    def _check_method(self, head: Head) -> None:
        allowed = frozenset.intersection(*self.methods)
        if head.method in allowed and not _has(head, _OTHER_METHODS):
            return
        methods = ", ".join(sorted(allowed))
        raise ClientError(code="method_not_allowed", headers=[("Allow", methods)])

    def _check_endpoint(self, head: Head) -> None:
        if _has(head, _OTHER_PATHS) or not all(one.allow(head.path) for one in self.endpoints):
            message = AMBIGUOUS if plain_segments(head.path) is None else ""
            raise ClientError(message, code="endpoint_not_found")


#: The fields that :meth:`Policy.check_head` enforces.
_HEAD_FIELDS = (
    "allowed_ips",
    "allowed_origins",
    "required_headers",
    "allowed_methods",
    "allowed_endpoints",
    "allowed_models",
)


def _has(head: Head, names: frozenset[str]) -> bool:
    return any(name in names for name, _ in head.headers)
