"""Which models may be asked for: globs, on every place in a request where a model is named.

The body's ``model`` is only one of them. Servers that speak OpenAI's API take others to fall back
to (OpenRouter's ``models``, LiteLLM's ``fallbacks``), older ones an ``engine``, Azure a
``deployment``. WebSockets name theirs in the query, and some paths name one
(``/v1/models/{model}``, ``/v1/engines/{model}/…``, ``/v1/deployments/{model}/…``).

The thing to get wrong: a request that runs a model without naming it (a stored prompt, an
assistant, a batch, an upstream's default) would use whatever that is. So a body, and a WebSocket,
that names none counts as naming the empty name, which only ``*`` and an empty pattern allow.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote, unquote_plus

from proxy.core.errors import ClientError
from proxy.policy.endpoints import ambiguous, plain_segments
from proxy.policy.globs import Globs

LONGEST_NAME: Final = 256
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
#: All that a rule about models reads of a body.
NAMING: Final = frozenset({"model", *_OTHERS})
_IN_QUERY: Final = frozenset({"model", "engine", "deployment", "deployment_id"})
_OWNERS: Final = frozenset({"models", "engines", "deployments"})
_MODELS: Final = "/v1/models/"
#: Of a name in a path, its slashes included: `meta-llama/Llama-3.3`.
_NAME_IN_PATH: Final = re.compile(r"[A-Za-z0-9._~:@!$&'()+,=-]+(?:/[A-Za-z0-9._~:@!$&'()+,=-]+)*")


class Models:
    """The models that one rule allows."""

    __slots__ = ("_globs",)

    def __init__(self, patterns: Iterable[str]) -> None:
        self._globs = Globs(patterns)

    def check(self, name: Any, param: str = "model") -> None:
        """``name``: as it was sent, ``""`` for none; ``param``: where. Raises ClientError
        ``model_not_allowed``."""
        if isinstance(name, str):
            # Blanks around it and control characters in it may be cut off by the upstream.
            sane = len(name) <= LONGEST_NAME and name.isprintable() and name == name.strip()
            if sane and self._globs.match(name):
                return
            if not name:
                raise ClientError(
                    "A request with this access token must name its model.",
                    code="model_not_allowed",
                    param=param,
                )
            said = f"This access token may not use the model {name[:100]!r}."
        elif param == "model":
            said = "`model` must be a string."
        else:
            said = f"With this access token `{param}` must be a string or a list of strings."
        raise ClientError(said, code="model_not_allowed", param=param)


def models_in_body(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each parameter and the name in it, of the top-level parameters of a body; ``model`` always,
    ``""`` where there is none. A name that is no string is for :meth:`Models.check` to refuse."""
    name = values.get("model")
    yield "model", "" if name is None else name
    for param in _OTHERS:
        value = values.get(param)
        if isinstance(value, list):
            yield from ((param, each) for each in value)
        elif value is not None:
            yield param, value


def models_in_target(path: str, query: str) -> list[str]:
    """What a raw path and query name, none or more.

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
    # As somebody would read it who decodes first and splits then, or decodes twice.
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
    """Raw, of every parameter that a generous server takes for one that names a model."""
    pairs = [item.partition("=") for item in re.split("[&;?#]", query)]
    named = [(_parameter(name), value) for name, _, value in pairs]
    return [(param, value) for param, value in named if param in _IN_QUERY]


def _parameter(name: str) -> str:
    for _ in range(3):
        name = unquote_plus(name, errors="replace")
    plain = name.strip("\0\t\r\n ").partition("\0")[0].partition("[")[0]
    # PHP and its kin read dots and blanks in names as underscores.
    return re.sub("[. ]", "_", plain).casefold()
