"""Parameters that a model refuses, as its errors say.

Newer models take no sampling parameters, some no effort, and no list of them stays true. So they
are sent as the client gave them; a 400 that names exactly one of them is believed for an hour.

Note: a prompt cannot put words into this error. It is about the request's form, and it is believed
only for parameters that were sent.
"""

import re
from collections.abc import Callable, Mapping, Set
from typing import Any, Final

from proxy.providers.anthropic.errors import error_in

#: Seconds for which a refusal is remembered.
REMEMBERED: Final = 3600.0
#: Models whose refusals are remembered.
MAX_MODELS: Final = 1000
#: A longer message is no refusal of a parameter.
_MAX_MESSAGE: Final = 1000
_NOTHING: Final[frozenset[str]] = frozenset()
_REFUSES: Final = re.compile(
    r"deprecated|not supported|unsupported|not support|not permitted|not allowed|not available",
    re.IGNORECASE,
)
#: Stands for a `temperature` beside a `top_p`: some models take either, and refuse both.
BOTH: Final = "temperature and top_p"
_NOT_BOTH: Final = re.compile(r"\bboth\b.*\bspecified\b|\bonly one\b", re.IGNORECASE | re.DOTALL)
_REFUSES_IN_CHAT: Final = re.compile(_REFUSES.pattern + "|unrecognized|unknown", re.IGNORECASE)
#: Parameters of a chat that some models refuse.
OF_A_CHAT: Final = frozenset({"temperature", "top_p", "reasoning_effort"})
#: As its errors name it → the client's parameter.
_NAMES: Final[Mapping[str, str]] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "effort": "reasoning_effort",
}


_SAMPLING: Final = frozenset({"temperature", "top_p"})


def sent_parameters(request: Mapping[str, Any]) -> frozenset[str]:
    """Return which of the client's parameters that a model may refuse are in a request."""
    found = {name for name in _NAMES.values() if name in request}
    if "effort" in request.get("output_config", {}):
        found.add("reasoning_effort")
    if found.issuperset(_SAMPLING):
        found.add(BOTH)
    return frozenset(found)


class RefusedParameters:
    """What is known of the models of all providers, in one worker."""

    def __init__(
        self,
        clock: Callable[[], float],
        read: Callable[[bytes], str | None] | None = None,
    ) -> None:
        """`clock` returns monotonic seconds. `read` returns the parameter that the body of a 400
        says the model does not take, or None; without it, the body is Anthropic's.
        """
        self._clock = clock
        self._read = read or _refused
        self._until: dict[tuple[str, str], dict[str, float]] = {}

    def of(self, provider: str, model: str) -> frozenset[str]:
        """Return the parameters that the model is known to refuse."""
        known = self._until.get((provider, model))
        if known is None:
            return _NOTHING
        now = self._clock()
        return frozenset(name for name, until in known.items() if until > now)

    def note_refusal(self, provider: str, model: str, sent: Set[str], body: bytes) -> bool:
        """Read the `body` of a 400. Returns whether it refuses exactly one parameter of `sent`."""
        refused = self._read(body)
        if refused is None or refused not in sent:
            return False
        known = self._until.pop((provider, model), {})
        known[refused] = self._clock() + REMEMBERED
        self._until[provider, model] = known
        if len(self._until) > MAX_MODELS:
            del self._until[next(iter(self._until))]
        return True


def refused_in_chat(body: bytes) -> str | None:
    """As OpenAI and services with its API write it: `param` names it, or the message alone does."""
    error = error_in(body)
    message = error.get("message")
    if not isinstance(message, str) or len(message) > _MAX_MESSAGE:
        return None
    param = error.get("param")
    if isinstance(param, str):
        named = [param] if param in OF_A_CHAT else []
    else:
        named = [name for name in sorted(OF_A_CHAT) if re.search(rf"\b{name}\b", message)]
    return named[0] if len(named) == 1 and _REFUSES_IN_CHAT.search(message) else None


def _refused(body: bytes) -> str | None:
    """Return the one parameter that an error says the model does not take; None: it says no such
    thing.
    """
    error = error_in(body)
    if error.get("type") != "invalid_request_error":
        return None
    message = error.get("message")
    if not isinstance(message, str) or len(message) > _MAX_MESSAGE:
        return None
    named = [name for name in _NAMES if re.search(rf"\b{name}\b", message)]
    if set(named) == _SAMPLING and _NOT_BOTH.search(message):
        return BOTH
    if len(named) != 1 or not _REFUSES.search(message):
        return None
    return _NAMES[named[0]]
