"""The rules of one access token, compiled once from what its project and its tokens say.

Documents are the policy fields of the project, of the tokens that the token was minted from, and of
the token itself, as the management API took them. Each can only narrow: a request must satisfy all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a request must satisfy, and what becomes of its answer."""

    #: Whether an answer is read to its end after the client has left, for its usage.
    drain_on_disconnect: bool = False
    #: Whether streamed chats are made to report their usage.
    inject_usage: bool = False

    @classmethod
    def compile(cls, project: Document, tokens: Sequence[Document] = ()) -> "Policy":
        """``tokens``: the token's own first, then those of its ancestors."""
        return cls(
            drain_on_disconnect=project.get("on_disconnect") == "drain",
            inject_usage=project.get("stream_usage") == "inject",
        )
