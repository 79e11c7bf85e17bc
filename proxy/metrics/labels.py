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
    """Which projects and models have figures of their own: the first that came, up to a limit."""

    def __init__(self, most_models: int = _MOST_MODELS, most_pairs: int = _MOST_PAIRS) -> None:
        self._most_models = most_models
        self._most_pairs = most_pairs
        self._models: set[str] = set()
        self._pairs: set[tuple[str, str]] = set()

    def labels(self, project: str, model: object) -> tuple[str, str]:
        """(project, model) as labels. ``model``: what the upstream called itself."""
        pair = (project, self._model(model))
        if pair in self._pairs:
            return pair
        if len(self._pairs) >= self._most_pairs:
            return OTHER, OTHER
        self._pairs.add(pair)
        return pair

    def _model(self, given: object) -> str:
        if not isinstance(given, str) or not _MODEL.fullmatch(given):
            return OTHER
        if given not in self._models:
            if len(self._models) >= self._most_models:
                return OTHER
            self._models.add(given)
        return given
