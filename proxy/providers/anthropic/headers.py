"""Header lines to and from Anthropic.

Source: https://platform.claude.com/docs/en/api/rate-limits, and `client.py` of Anthropic's Python
SDK.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from proxy.providers.base import HeaderList, Target
from proxy.providers.preparing import bearer, headers_for
from proxy.providers.transforms import header

#: The version whose requests and responses are translated here. In later ones, parameters of the
#: same model are refused (https://platform.claude.com/docs/en/api/versioning).
VERSION: Final = "2023-06-01"
#: How tokens of OAuth begin, which are no API keys.
_OAUTH: Final = "sk-ant-oat"
_LIMITS: Final[Mapping[str, str]] = {
    f"anthropic-ratelimit-{kind}-{what}": f"x-ratelimit-{what}-{kind}"
    for kind in ("requests", "tokens")
    for what in ("limit", "remaining", "reset")
}


def request_headers(
    target: Target, headers: HeaderList, upstream_key: str | None, *, translated: bool
) -> HeaderList:
    """Return the lines of a request. Of a translated one, the version is that of the translation.

    A client's own `anthropic-version` and `anthropic-beta` stay as sent on native calls.
    """
    kept = [line for line in headers if not (translated and _is_openais(line[0].lower()))]
    credential = bearer(upstream_key)
    if upstream_key is not None and not upstream_key.startswith(_OAUTH):
        credential = ("X-Api-Key", upstream_key)
    if not header(kept, "anthropic-version"):
        kept.append(("Anthropic-Version", target.config.anthropic_version or VERSION))
    return headers_for(target, kept, credential, plain=translated)


def _is_openais(name: str) -> bool:
    return name.startswith(("openai-", "x-stainless-")) or name == "anthropic-version"


def chat_headers(headers: HeaderList, now: float) -> HeaderList:
    """Return the lines of a translated response: the upstream's, and those that OpenAI's clients
    read. `now` is the Unix time.
    """
    found = list(headers)
    names = {name.lower() for name, _ in headers}
    for name, value in headers:
        lower = name.lower()
        if lower == "request-id" and "x-request-id" not in names:
            found.append(("x-request-id", value))
        elif (openais := _LIMITS.get(lower)) is not None and openais not in names:
            if lower.endswith("-reset"):
                value = _duration(value, now)
            if value:
                found.append((openais, value))
    return found


def _duration(moment: str, now: float) -> str:
    """`2026-11-28T03:06:00Z` → `6m0s`, as OpenAI writes it; empty for what is no moment."""
    try:
        parsed = datetime.fromisoformat(moment.strip())
    except ValueError:
        return ""
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    seconds = max(0, math.ceil(parsed.timestamp() - now))
    hours, seconds = divmod(seconds, 3600)
    minutes, seconds = divmod(seconds, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
