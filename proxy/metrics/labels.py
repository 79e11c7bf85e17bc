"""From what clients and upstreams send to the values of labels: closed or bounded sets.

A path, a method or a model name that somebody made up becomes ``other``.
"""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

OTHER: Final = "other"

_METHODS: Final = frozenset(
    ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
)
#: First segment behind ``/v1/`` → route. `chat` is more than one endpoint; they are one route.
ROUTES: Final[Mapping[str, str]] = {
    name: name
    for name in (
        *("chat", "completions", "embeddings", "responses", "images", "audio"),
        *("models", "files", "realtime"),
    )
}
#: 499: the client left before the head.
_STATUSES: Final = frozenset({str(status.value) for status in HTTPStatus} | {"499"})
_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,79}", re.ASCII)
#: Far more than anybody serves; and what an attacker with a good token can make of it.
_MOST_MODELS: Final = 100
_MOST_PAIRS: Final = 200
#: Of these pairs, what one access token, and what one project may be the first to use: an upstream
#: that repeats whatever name it is sent lets a client make up any number.
_MOST_OF_TOKEN: Final = 16
_MOST_OF_PROJECT: Final = 48


def route(path: str) -> str:
    """The route class of a path below ``/v1/``."""
    if not path.startswith("/v1/"):
        return OTHER
    return ROUTES.get(path[4:].partition("/")[0], OTHER)


def method(given: str) -> str:
    return given if given in _METHODS else OTHER


def status(code: int) -> str:
    """A registered status as it is; any other by its class, ``4xx``."""
    text = str(code)
    return text if text in _STATUSES else f"{text[:1]}xx"


class Consumers:
    """Which projects and models have figures of their own: the first that came, up to a limit; of
    one token and one project up to a limit of its own."""

    def __init__(self, most_models: int = _MOST_MODELS, most_pairs: int = _MOST_PAIRS) -> None:
        self._most_models = most_models
        self._most_pairs = most_pairs
        self._models: set[str] = set()
        self._pairs: set[tuple[str, str]] = set()
        #: Access token or project → the pairs that it was the first to use.
        self._introduced: dict[str, int] = {}

    def labels(self, project: str, model: object, token: str | None = None) -> tuple[str, str]:
        """(project, model) as labels.

        ``model``: what the upstream called itself; ``token``: what is known of the access token.
        """
        name = model if isinstance(model, str) and _MODEL.fullmatch(model) else OTHER
        if (project, name) not in self._pairs and not self._may_introduce(project, name, token):
            name = OTHER
        pair = (project, name)
        if pair in self._pairs:
            return pair
        if len(self._pairs) >= self._most_pairs:
            return OTHER, OTHER
        self._pairs.add(pair)
        if name != OTHER:
            self._models.add(name)
            for account in self._accounts(project, token):
                self._introduced[account] = self._introduced.get(account, 0) + 1
        return pair

    def _may_introduce(self, project: str, name: str, token: str | None) -> bool:
        if name not in self._models and len(self._models) >= self._most_models:
            return False
        bounds = self._accounts(project, token)
        return all(self._introduced.get(account, 0) < most for account, most in bounds.items())

    def _accounts(self, project: str, token: str | None) -> dict[str, int]:
        bounds = {} if project == OTHER else {project: _MOST_OF_PROJECT}
        return bounds if token is None else {**bounds, token: _MOST_OF_TOKEN}
