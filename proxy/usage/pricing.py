"""The price list: the operator's price of each model, from a JSON file.

No price is built in, because prices change. `prompt_tokens` contain the cached ones and
`completion_tokens` the reasoning ones, so each is priced once.
"""

import fnmatch
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

_MAX_BYTES: Final = 1024 * 1024
_MAX_PROBLEMS: Final = 10
_MILLION: Final = Decimal(1_000_000)
#: Decimals of a price, so that every cost is exact and the rows of a report add up to its total.
_PLACES: Final = 6
_FIELDS: Final = ("input", "cached_input", "output")


@dataclass(frozen=True, slots=True)
class Price:
    """The price of a million LLM tokens."""

    input: Decimal
    cached_input: Decimal
    output: Decimal

    def cost(self, prompt: int, cached: int, completion: int) -> Decimal:
        """Return the exact cost. Some services do not count cached tokens as prompt tokens."""
        uncached = max(0, prompt - cached)
        total = uncached * self.input + cached * self.cached_input + completion * self.output
        return total / _MILLION


class PriceList:
    """Prices by model name or pattern, case-sensitive. `currency` is three capitals."""

    def __init__(self, currency: str, prices: Mapping[str, Price]) -> None:
        self.currency = currency
        # The most specific pattern is first; of equals, the first of the file.
        patterns = sorted(prices, key=lambda pattern: -len(re.sub(r"[*?]", "", pattern)))
        self._prices = [
            (re.compile(fnmatch.translate(pattern)), prices[pattern]) for pattern in patterns
        ]
        self._exact = {name: price for name, price in prices.items() if not _is_pattern(name)}

    def find(self, model: str) -> Price | None:
        """Return the price of `model`, or that of the most specific matching pattern, or None."""
        if model in self._exact:
            return self._exact[model]
        return next((price for pattern, price in self._prices if pattern.match(model)), None)


def from_file(value: str) -> PriceList:
    """Read the file at the path `value`. Raises ValueError with all problems of the file."""
    try:
        with Path(value).expanduser().open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "there is no such path"
        raise ValueError(f"expected a JSON file that can be read: {reason}") from None
    if len(raw) > _MAX_BYTES:
        raise ValueError(f"expected a file of {_MAX_BYTES} bytes at most")
    try:
        content = json.loads(
            raw, parse_float=Decimal, parse_constant=_refuse, object_pairs_hook=_object
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected a JSON file: {error}") from None
    problems: list[str] = []
    currency, prices = _currency(content, problems), _prices(content, problems)
    if problems:
        more = (
            f" (and {len(problems) - _MAX_PROBLEMS} more)" if len(problems) > _MAX_PROBLEMS else ""
        )
        raise ValueError("; ".join(problems[:_MAX_PROBLEMS]) + more)
    return PriceList(currency, prices)


def _currency(content: Any, problems: list[str]) -> str:
    if not isinstance(content, dict):
        problems.append('expected {"currency": …, "models": {…}}')
        return ""
    unknown = sorted(content.keys() - {"currency", "models"})
    problems += [f"unknown name {name[:80]!r}" for name in unknown]
    currency = content.get("currency")
    if not isinstance(currency, str) or not re.fullmatch(r"[A-Z]{3}", currency):
        problems.append("currency: expected three capitals such as USD")
        return ""
    return currency


def _prices(content: Any, problems: list[str]) -> dict[str, Price]:
    models = content.get("models") if isinstance(content, dict) else {}
    if not isinstance(models, dict):
        problems.append("models: expected an object, a name or pattern each with its prices")
        return {}
    found = {}
    for name, fields in models.items():
        price = _price(f"models[{name[:80]!r}]", fields, problems)
        if price is not None:
            found[name] = price
    return found


def _price(where: str, fields: Any, problems: list[str]) -> Price | None:
    if not isinstance(fields, dict) or not {"input", "output"} <= fields.keys():
        problems.append(f"{where}: expected input and output, and cached_input where it differs")
        return None
    before = len(problems)
    problems += [f"{where}: unknown name {name[:80]!r}" for name in fields if name not in _FIELDS]
    for name in _FIELDS:
        if name in fields and not _is_price(fields[name]):
            problems.append(
                f"{where}.{name}: expected a number from 0 to 1000000 with {_PLACES} decimals at"
                " most, the price of a million tokens"
            )
    if len(problems) > before:
        return None
    price = Decimal(fields["input"])
    cached = Decimal(fields.get("cached_input", price))
    return Price(price, cached, Decimal(fields["output"]))


def _is_price(value: Any) -> bool:
    if type(value) is int:
        return 0 <= value <= _MILLION
    if not isinstance(value, Decimal):
        return False
    exponent = value.as_tuple().exponent
    return isinstance(exponent, int) and -exponent <= _PLACES and 0 <= value <= _MILLION


def _is_pattern(name: str) -> bool:
    return not {"*", "?", "["}.isdisjoint(name)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:80]!r} is there twice")
    return found
