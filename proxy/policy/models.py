"""Which models are allowed: globs, for every place in a request that names a model.

The body's ``model`` is only one of them. Servers that speak OpenAI's API take others to fall back
to (OpenRouter's ``models``, LiteLLM's ``fallbacks``), older ones an ``engine``, Azure a
``deployment``. WebSockets name theirs in the query, and some paths name one
(``/v1/models/{model}``, ``/v1/engines/{model}/…``, ``/v1/deployments/{model}/…``).

Note: a request can run a model without naming it (a stored prompt, an assistant, a batch, an
upstream's default). So a body, and a WebSocket, without a model counts as naming the empty name,
which only ``*`` and an empty pattern allow.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote, unquote_plus

from proxy.core.errors import ClientError
from proxy.policy.endpoints import ambiguous, plain_segments
from proxy.policy.globs import Globs

MAX_NAME_CHARS: Final = 256
#: Top-level parameters that name one model beside ``model``, or a list of them.
_OTHERS: Final = (
    "models",
    "engine",
    "deployment",
    "deployment_id",
    "fallbacks",
    "context_window_fallbacks",
    "content_policy_fallbacks",
)
#: The parameters of a body that a rule about models reads.
NAMING: Final = frozenset({"model", *_OTHERS})
_IN_QUERY: Final = frozenset({"model", "engine", "deployment", "deployment_id"})
_OWNERS: Final = frozenset({"models", "engines", "deployments"})
_MODELS: Final = "/v1/models/"
#: A model's name in a path, its slashes included: `meta-llama/Llama-3.3`.
_NAME_IN_PATH: Final = re.compile(r"[A-Za-z0-9._~:@!$&'()+,=-]+(?:/[A-Za-z0-9._~:@!$&'()+,=-]+)*")


class Models:
    """The models that one rule allows."""

    __slots__ = ("_globs",)

    def __init__(self, patterns: Iterable[str]) -> None:
        self._globs = Globs(patterns)

    def allow(self, name: str) -> bool:
        """Whether the rule allows this name."""
        # The upstream may cut off blanks around it and control characters in it.
        sane = len(name) <= MAX_NAME_CHARS and name.isprintable() and name == name.strip()
        return sane and self._globs.match(name)

    def check(self, name: Any, param: str = "model") -> None:
        """Check a name as it was sent, ``""`` for none. ``param`` is the parameter that has it.

        Raises ClientError ``model_not_allowed``.
        """
        if isinstance(name, str):
            if self.allow(name):
                return
            if not name:
                raise ClientError(
                    "A request with this access token must name its model.",
                    code="model_not_allowed",
                    param=param,
                )
            message = f"This access token may not use the model {name[:100]!r}."
        elif param == "model":
            message = "`model` must be a string."
        else:
            message = f"With this access token `{param}` must be a string or a list of strings."
        raise ClientError(message, code="model_not_allowed", param=param)


def models_in_body(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each top-level parameter of a body that names a model, with that name.

    ``model`` always comes, with ``""`` if the body has none. :meth:`Models.check` refuses a name
    that is no string.
    """
    name = values.get("model")
    yield "model", "" if name is None else name
    for param in _OTHERS:
        value = values.get(param)
        if isinstance(value, list):
            yield from ((param, each) for each in value)
        elif value is not None:
            yield param, value


def models_in_target(path: str, query: str) -> list[str]:
    """Return the models that a raw path and query name.

    Raises ClientError: ``endpoint_not_found`` when the path, ``invalid_request`` when the query
    can be read in more than one way.
    """
    found = []
    if path.startswith(_MODELS):
        # The rest is one name, whether or not its slashes are escaped.
        name = unquote(path[len(_MODELS) :], "latin-1")
        if not _NAME_IN_PATH.fullmatch(name):
            raise ambiguous()
        found.append(name)
    else:
        segments = plain_segments(path)
        if segments is None:
            raise ambiguous()
        found += [
            after for owner, after in itertools.pairwise(segments) if owner.lower() in _OWNERS
        ]
    return found + _models_in_query(query) if query else found


def _models_in_query(query: str) -> list[str]:
    found = _values_in_query(query)
    # Read it like a server that decodes before it splits, or decodes twice.
    for _ in range(3):
        query = unquote_plus(query, errors="replace")
    params = [param for param, _ in found]
    if len(set(params)) < len(params) or len(_values_in_query(query)) != len(found):
        param = params[0] if params else "model"
        raise ClientError(f"`{param}` must be in the query once, and plainly.", param=param)
    names = [(param, unquote_plus(value, errors="replace")) for param, value in found]
    for param, name in names:
        if "%" in name:
            raise ClientError(f"`{param}` in the query must not be escaped twice.", param=param)
    return [name for _, name in names]


def _values_in_query(query: str) -> list[tuple[str, str]]:
    """Return the raw values of every parameter that a lenient server reads as a model's name."""
    pairs = [item.partition("=") for item in re.split("[&;?#]", query)]
    named = [(_parameter(name), value) for name, _, value in pairs]
    return [(param, value) for param, value in named if param in _IN_QUERY]


def _parameter(name: str) -> str:
    for _ in range(3):
        name = unquote_plus(name, errors="replace")
    plain = name.strip("\0\t\r\n ").partition("\0")[0].partition("[")[0]
    # PHP and its kin read dots and blanks in names as underscores.
    return re.sub("[. ]", "_", plain).casefold()
