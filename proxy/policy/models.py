"""Which models may be asked for: globs, on every place in a request where a model is named.

The body's ``model`` is only one of them: WebSockets name theirs in the query, and some paths name
one (``/v1/models/{model}``, ``/v1/engines/{model}/…``, ``/v1/deployments/{model}/…``).

The thing to get wrong: a request that runs a model without naming it (a stored prompt, an
assistant, a batch, an upstream's default) would use whatever that is. So a body, and a WebSocket,
that names none counts as naming the empty name, which only ``*`` and an empty pattern allow.
"""

import itertools
import re
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import unquote, unquote_plus

from proxy.errors import ClientError
from proxy.policy.endpoints import ambiguous, plain_segments
from proxy.policy.globs import Globs

LONGEST_NAME: Final = 256
_OWNERS: Final = frozenset({"models", "engines", "deployments"})
_MODELS: Final = "/v1/models/"
#: Of a name in a path, its slashes included: `meta-llama/Llama-3.3`.
_NAME_IN_PATH: Final = re.compile(r"[A-Za-z0-9._~:@!$&'()+,=-]+(?:/[A-Za-z0-9._~:@!$&'()+,=-]+)*")


class Models:
    """The models that one rule allows."""

    __slots__ = ("_globs",)

    def __init__(self, patterns: Iterable[str]) -> None:
        self._globs = Globs(patterns)

    def check(self, name: Any) -> None:
        """``name``: as it was sent, ``""`` for none. Raises ClientError ``model_not_allowed``."""
        if isinstance(name, str):
            # Blanks around it and control characters in it may be cut off by the upstream.
            sane = len(name) <= LONGEST_NAME and name.isprintable() and name == name.strip()
            if sane and self._globs.match(name):
                return
            if not name:
                raise ClientError(
                    "A request with this access token must name its model.",
                    code="model_not_allowed",
                    param="model",
                )
            said = f"This access token may not use the model {name[:100]!r}."
        else:
            said = "`model` must be a string."
        raise ClientError(said, code="model_not_allowed", param="model")


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
    found = _values_of_model(query)
    # As somebody would read it who decodes first and splits then, or decodes twice.
    for _ in range(3):
        query = unquote_plus(query, errors="replace")
    if len(found) > 1 or len(_values_of_model(query)) != len(found):
        raise ClientError("`model` must be in the query once, and plainly.", param="model")
    names = [unquote_plus(value, errors="replace") for value in found]
    if any("%" in name for name in names):
        raise ClientError("`model` in the query must not be escaped twice.", param="model")
    return names


def _values_of_model(query: str) -> list[str]:
    """Raw, of every parameter that a generous server takes for ``model``."""
    pairs = [item.partition("=") for item in re.split("[&;?#]", query)]
    return [value for name, _, value in pairs if _parameter(name) == "model"]


def _parameter(name: str) -> str:
    for _ in range(3):
        name = unquote_plus(name, errors="replace")
    return name.strip("\0\t\r\n ").partition("[")[0].casefold()
