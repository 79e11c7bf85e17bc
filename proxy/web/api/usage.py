"""``/manage/usage``: sums from the ledger, and their costs.

The ledger sums by the hour, so a range is widened to whole hours, which the response shows. Costs
are computed on reading, by the current price list.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import flask

from proxy.core.errors import ClientError
from proxy.store.usage import GROUPS, UsageLedger, UsageSums
from proxy.usage.pricing import Price, PriceList
from proxy.web.api import fields
from proxy.web.api.fields import query_datetime
from proxy.web.replies import json_reply

#: Groups of one response. Reading many more would block this worker's streams (5000: 0.2 s).
MAX_ROWS: Final = 5_000
_DEFAULT_RANGE: Final = timedelta(hours=24)
_HOUR: Final = timedelta(hours=1)
_PARAMETERS: Final = frozenset({"from", "to", "group_by", "project_id", "token_id", "model"})
_COUNTS: Final = (
    "requests",
    "errors",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "estimated_prompt_tokens",
    "estimated_completion_tokens",
    "cache_hits",
    "saved_prompt_tokens",
    "saved_completion_tokens",
)
#: Group → the fields that it adds to a row.
_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "project": ("project_id", "project_name"),
    "token": ("token_id", "token", "token_name"),
    "model": ("model",),
    "hour": ("hour",),
}


def _now() -> datetime:
    return datetime.now(UTC)


def create_blueprint(
    ledger: UsageLedger, prices: PriceList | None, now: Callable[[], datetime] = _now
) -> flask.Blueprint:
    """Makes the blueprint for ``/manage/usage``, which belongs behind the management guard."""
    blueprint = flask.Blueprint("usage", __name__)

    @blueprint.get("")
    def usage() -> flask.Response:
        query = fields.read_query(flask.request, _PARAMETERS)
        start, end = _range(query, now())
        group_by = _group_by(query)
        # Only a model has a price.
        priced_by = [*group_by, "model"] if prices and "model" not in group_by else group_by
        found = ledger.sums(
            start,
            end,
            priced_by,
            project_id=fields.query_id(query, "project_id"),
            token_id=fields.query_id(query, "token_id"),
            model=_model(query),
            limit=MAX_ROWS + 1,
        )
        if len(found) > MAX_ROWS:
            raise ClientError(
                f"These are more than {MAX_ROWS} sums: ask for a shorter range, group by less, or "
                "filter by project_id, token_id or model.",
                param="group_by",
            )
        rows, totals = _summed(found, group_by, prices)
        return json_reply(
            {
                "from": _rfc3339(start),
                "to": _rfc3339(end),
                "group_by": group_by,
                "currency": prices and prices.currency,
                "rows": rows,
                "totals": totals,
            }
        )

    return blueprint


@dataclass(slots=True)
class _Row:
    """Sums the usage of one group."""

    counts: list[int] = field(default_factory=lambda: [0] * len(_COUNTS))
    cost: Decimal | None = None
    unpriced_tokens: int = 0
    saved_cost: Decimal | None = None
    unpriced_saved: int = 0

    def add(self, sums: UsageSums, price: Price | None) -> None:
        for index, name in enumerate(_COUNTS):
            self.counts[index] += getattr(sums, name)
        if price is not None:
            cost = price.cost(sums.prompt_tokens, sums.cached_tokens, sums.completion_tokens)
            self.cost = cost + (self.cost or 0)
            # What was saved at the provider's own prompt cache is not known: none is assumed.
            saved = price.cost(sums.saved_prompt_tokens, 0, sums.saved_completion_tokens)
            self.saved_cost = saved + (self.saved_cost or 0)
        else:
            self.unpriced_tokens += sums.prompt_tokens + sums.completion_tokens
            self.unpriced_saved += sums.saved_prompt_tokens + sums.saved_completion_tokens

    def as_json(self, prices: PriceList | None) -> dict[str, Any]:
        shown: dict[str, Any] = dict(zip(_COUNTS, self.counts, strict=True))
        cost = self.cost
        if prices is not None and cost is None and not self.unpriced_tokens:
            cost = Decimal(0)  # nothing was used
        shown["cost"] = None if cost is None else _plain(cost)
        shown["unpriced_tokens"] = self.unpriced_tokens
        saved = self.saved_cost
        if prices is not None and saved is None and not self.unpriced_saved:
            saved = Decimal(0)
        shown["saved_cost"] = None if saved is None else _plain(saved)
        return shown


def _summed(
    found: Iterable[UsageSums], group_by: Sequence[str], prices: PriceList | None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns the rows of the response and their totals."""
    names = [name for group in group_by for name in _KEYS[group]]
    known: dict[str, Price | None] = {}
    groups: dict[tuple[Any, ...], _Row] = {}
    totals = _Row()
    for sums in found:
        price = None
        if prices is not None and sums.model:
            if sums.model not in known:
                known[sums.model] = prices.find(sums.model)
            price = known[sums.model]
        key = tuple(getattr(sums, name) for name in names)
        groups.setdefault(key, _Row()).add(sums, price)
        totals.add(sums, price)
    rows = [
        {**dict(zip(names, map(_shown, key), strict=True)), **row.as_json(prices)}
        for key, row in groups.items()
    ]
    return rows, totals.as_json(prices)


def _shown(value: Any) -> Any:
    """Returns None for an empty name."""
    return _rfc3339(value) if isinstance(value, datetime) else value or None


def _plain(cost: Decimal) -> str:
    """Returns all digits, without an exponent and without zeros at the end."""
    text = f"{cost:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _rfc3339(hour: datetime) -> str:
    return hour.strftime("%Y-%m-%dT%H:%M:%SZ")


def _range(query: Mapping[str, str], now: datetime) -> tuple[datetime, datetime]:
    """Returns whole hours: the start of the hour of ``from``, and ``to`` rounded up to an hour."""
    end = _ceiling(query_datetime(query, "to") or now)
    start = _floor(query_datetime(query, "from") or end - _DEFAULT_RANGE)
    if start >= end:
        param = "to" if "to" in query else "from"
        raise ClientError("`to` must be later than `from`; it is not included.", param=param)
    return start, end


def _floor(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def _ceiling(moment: datetime) -> datetime:
    floor = _floor(moment)
    return floor if floor == moment else floor + _HOUR


def _group_by(query: Mapping[str, str]) -> list[str]:
    """Returns the requested groups, in the order in which the rows are sorted."""
    group_by = [name.strip() for name in query.get("group_by", "project").split(",")]
    if len(set(group_by)) < len(group_by) or not set(group_by) <= GROUPS.keys():
        known = ", ".join(f"`{name}`" for name in GROUPS)
        raise ClientError(
            f"`group_by` must be one or more of {known}, each once, with commas between.",
            param="group_by",
        )
    return group_by


def _model(query: Mapping[str, str]) -> str | None:
    """Returns the model to filter by. An empty one selects usage without a model."""
    return None if "model" not in query else fields.text(query["model"], "model", 255)
