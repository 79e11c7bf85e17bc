"""What is changed in a request's parameters for one target, whatever the body is written in."""

from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass
from typing import Any, Final

#: Two names of one bound.
OUTPUT_BOUNDS: Final = frozenset({"max_tokens", "max_completion_tokens"})


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of each parameter. The first three name them as the client wrote them."""

    removed: frozenset[str]
    #: Name → its name for the target.
    renamed: Mapping[str, str]
    #: Name → its value for the target.
    replaced: Mapping[str, Any]
    #: Parameters that the client did not send.
    added: Mapping[str, Any]


def plan(
    sent: Collection[str],
    *,
    model: str | None = None,
    defaults: Mapping[str, Any] | None = None,
    override: Mapping[str, Any] | None = None,
    drop: Set[str] = frozenset(),
    rename: Mapping[str, str] | None = None,
) -> Plan:
    """Return the changes of the parameters `sent`, no two of which differ in case alone.

    1. `override`, and `model`, win over everything else.
    2. `drop` names parameters as the client or the target writes them, those of defaults too.
    3. `defaults` are for parameters that neither the client nor `override` sets.
    4. `rename` holds for the client's names, for those of defaults and of overrides. Where both
       the old and the new name are sent, the old one's value counts.
    5. `max_tokens` and `max_completion_tokens` count as one, except in `drop`.

    Case is ignored, as some servers do (Go's `encoding/json`).
    """
    new_names = {old.casefold(): new for old, new in (rename or {}).items()}
    dropped = {name.casefold() for name in drop}
    forced = {
        new_names.get(name.casefold(), name): value for name, value in (override or {}).items()
    }
    if model is not None:
        forced["model"] = model
    forced_folded = {name.casefold(): name for name in forced}
    bound_forced = not OUTPUT_BOUNDS.isdisjoint(forced_folded)

    removed: set[str] = set()
    #: The target's name, folded → the client's.
    kept: dict[str, str] = {}
    for name in sorted(sent, key=lambda each: each.casefold() not in new_names):
        folded = name.casefold()
        final = new_names.get(folded, name).casefold()
        left_out = (
            folded in dropped or final in dropped or (bound_forced and final in OUTPUT_BOUNDS)
        )
        if final in kept or (left_out and final not in forced_folded):
            removed.add(name)
        else:
            kept[final] = name
    renamed, replaced = {}, {}
    for final, name in kept.items():
        target_name = forced_folded.get(final) or new_names.get(name.casefold(), name)
        if target_name != name:
            renamed[name] = target_name
        if final in forced_folded:
            replaced[name] = forced[forced_folded[final]]
    added = {name: value for name, value in forced.items() if name.casefold() not in kept}
    bound = bound_forced or not OUTPUT_BOUNDS.isdisjoint(kept)
    for name, value in (defaults or {}).items():
        final_name = new_names.get(name.casefold(), name)
        final = final_name.casefold()
        if final in kept or final in forced_folded:
            continue
        if final in dropped or name.casefold() in dropped:
            continue
        if final in OUTPUT_BOUNDS:
            if bound:
                continue
            bound = True
        kept[final] = final_name
        added[final_name] = value
    return Plan(frozenset(removed), renamed, replaced, added)
