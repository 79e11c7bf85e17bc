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


def seconds(least: float, most: float) -> Read:
    def read(param: str, value: Any) -> float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not least <= value <= most:
            raise wrong(param, f"a number of seconds from {least:g} to {most:g}")
        return float(value)

    return read


def count(least: int, most: int) -> Read:
    def read(param: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise wrong(param, f"an integer from {least} to {most}")
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


def line(most: int) -> Read:
    """Read one line of at most ``most`` characters, without spaces at its ends. Never empty."""

    def read(param: str, value: Any) -> str:
        found = value.strip() if isinstance(value, str) else ""
        if not 0 < len(found) <= most or not found.isprintable():
            raise wrong(param, f"one line of 1 to {most} characters")
        return found

    return read


def json_object(param: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(param, "a JSON object")
    return value
