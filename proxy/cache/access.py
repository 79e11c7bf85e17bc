"""What a project and its tokens ask of the response cache."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.policy.fields import CACHE_MODES, CacheMode

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheAccess:
    """Compiled from policy fields, once. A project that asks for nothing has none."""

    #: Whether responses are stored and read: never, on request, or wherever it is allowed.
    mode: CacheMode
    #: Who may read what is stored here. It is the project's id; with `cache_scope: token` the
    #: project's id, ":" and the token's; in pass-through mode a keyed hash of the client's key.
    scope: str
    #: Empty in pass-through mode.
    project_id: str
    #: Part of every cache key. A higher number makes all that the project stored unreadable.
    epoch: int = 0
    #: Whether identical requests share one running response. False where `mode` is "off".
    coalesce: bool = False
    #: Whether `Idempotency-Key` has a meaning here.
    idempotency: bool = False
    #: Whether a response goes on for a while when its last client has left.
    hold: bool = False


def cache_access(
    project: Document,
    tokens: Sequence[Document] = (),
    *,
    project_id: str,
    token_id: str,
    epoch: int,
) -> CacheAccess | None:
    """Compile the cache fields of a project, and of a token and its ancestors.

    A token can only narrow `cache`. Returns None when nothing is asked for.
    """
    mode = _narrowest(project, tokens)
    idempotency = project.get("idempotency") == "on"
    hold = project.get("on_disconnect") == "hold"
    if mode == "off" and not (idempotency or hold):
        return None
    per_token = project.get("cache_scope") == "token"
    return CacheAccess(
        mode=mode,
        scope=f"{project_id}:{token_id}" if per_token else project_id,
        project_id=project_id,
        epoch=epoch,
        coalesce=mode != "off" and project.get("coalesce") == "on",
        idempotency=idempotency,
        hold=hold,
    )


def _narrowest(project: Document, tokens: Sequence[Document]) -> CacheMode:
    modes = [project.get("cache"), *(token["cache"] for token in tokens if token.get("cache"))]
    # A policy with an unknown word refuses every request, so it does not matter what it means here.
    ranks = [CACHE_MODES.index(mode) if mode in CACHE_MODES else 0 for mode in modes]
    return CACHE_MODES[min(ranks)]
