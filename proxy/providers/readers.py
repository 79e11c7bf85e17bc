"""Readers of single values: each takes the name of a member and its value, and returns it checked.

Every refusal is a ClientError whose ``param`` is that name.
"""

from collections.abc import Callable
from typing import Any

from proxy.core.errors import ClientError

#: Reads the value of the member with this name. Raises ClientError.
Read = Callable[[str, Any], Any]


def wrong(param: str, expected: str) -> ClientError:
    return ClientError(f"`{param}` must be {expected}.", param=param)


def seconds(minimum: float, maximum: float) -> Read:
    def read(param: str, value: Any) -> float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not minimum <= value <= maximum:
            raise wrong(param, f"a number of seconds from {minimum:g} to {maximum:g}")
        return float(value)

    return read


def count(minimum: int, maximum: int) -> Read:
    def read(param: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
            raise wrong(param, f"an integer from {minimum} to {maximum}")
        return value

    return read


def truth(param: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise wrong(param, "true or false")
    return value


def word(*words: str) -> Read:
    def read(param: str, value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise wrong(param, "one of: " + ", ".join(f"`{word}`" for word in words))
        return value

    return read


def line(max_chars: int) -> Read:
    """Read one line of 1 to ``max_chars`` characters, without spaces at its ends."""

    def read(param: str, value: Any) -> str:
        found = value.strip() if isinstance(value, str) else ""
        if not 0 < len(found) <= max_chars or not found.isprintable():
            raise wrong(param, f"one line of 1 to {max_chars} characters")
        return found

    return read


def json_object(param: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(param, "a JSON object")
    return value
