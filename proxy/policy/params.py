"""Which values the top-level parameters of a body may have.

Each parameter that is named in a rule may be left out (``null`` is the same); a value must match
one of its globs. Parameters that no rule names are free.

The thing to get wrong: a rule without globs says that its parameter must not be there at all.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from proxy.core.errors import ClientError
from proxy.policy.globs import Globs


class Params:
    """``allowed``: parameter → globs."""

    __slots__ = ("_allowed",)

    def __init__(self, allowed: Mapping[str, Iterable[str]]) -> None:
        self._allowed = {name: Globs(patterns) for name, patterns in allowed.items()}

    def check(self, values: Mapping[str, Any]) -> None:
        """Raises ClientError ``param_not_allowed``, whose ``param`` is the parameter."""
        for name, globs in self._allowed.items():
            value = values.get(name)
            if value is None or globs.match_all:
                continue
            if not any(map(globs.match, _texts(value))):
                raise ClientError(
                    f"This value of `{name}` is not allowed for this access token.",
                    code="param_not_allowed",
                    param=name,
                )


def _texts(value: Any) -> list[str]:
    """How a value may be written in a rule; objects and arrays in no way."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, float) and value.is_integer():
        return [orjson.dumps(value).decode(), str(int(value))]  # `1.0` and `1` are one number
    if isinstance(value, bool | int | float):
        return [orjson.dumps(value).decode()]
    return []
