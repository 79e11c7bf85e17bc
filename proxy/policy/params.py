"""Which values the top-level parameters of a body may have.

A parameter that a rule names may be missing (``null`` is the same). If it has a value, that must
match one of the rule's globs. Parameters that no rule names are free.

Note: a rule without globs forbids its parameter.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from proxy.core.errors import ClientError
from proxy.policy.globs import Globs


class Params:
    """The parameters of one rule: name → globs for its value."""

    __slots__ = ("_allowed",)

    def __init__(self, allowed: Mapping[str, Iterable[str]]) -> None:
        self._allowed = {name: Globs(patterns) for name, patterns in allowed.items()}

    def check(self, values: Mapping[str, Any]) -> None:
        """Check the values. Raises ClientError ``param_not_allowed``, with the parameter's name."""
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
    """Return the spellings of a value in a rule. Objects and arrays have none."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, float) and value.is_integer():
        return [orjson.dumps(value).decode(), str(int(value))]  # `1.0` and `1` are one number
    if isinstance(value, bool | int | float):
        return [orjson.dumps(value).decode()]
    return []
