"""Making, recognising, hashing and masking secrets: access tokens and upstream keys.

The format check is the pattern and nothing finer, so that tokens minted by an older version stay
valid. Only the hash of an access token is ever stored. A plain SHA-256 is enough: the secret has
128 random bits, so no dictionary helps.
"""

import base64
import hashlib
import re
import secrets
import time
import uuid
from dataclasses import dataclass, field
from typing import Final

PREFIX: Final = "sk-"
_PATTERN: Final = re.compile(r"sk-[A-Za-z0-9_-]{22}")
#: Never a part of a longer key.
_STANDING_ALONE: Final = re.compile(rf"(?<![A-Za-z0-9_-]){_PATTERN.pattern}(?![A-Za-z0-9_-])")
#: Matches an `Authorization` with a well-formed access token (RFC 6750 §2.1), which is group 1. It
#: is the pattern's own method, since every request calls it.
match_bearer: Final = re.compile(rf"(?i:bearer) \s*({_PATTERN.pattern})\s*").fullmatch
#: Shorter upstream keys are masked as a whole: head and tail would be most of them.
_MIN_SHOWN_LENGTH: Final = 20
_FULL_MASK: Final = "*" * 8  # of one length, so that it does not show how long the key is


@dataclass(frozen=True, slots=True)
class Minted:
    """A new access token. Everything but the secret is stored."""

    secret: str = field(repr=False)
    token_id: str
    token_hash: str
    token_mask: str


def mint() -> Minted:
    """Mints an access token: ``sk-`` and 128 random bits as 22 characters of base64url."""
    random = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode("ascii").rstrip("=")
    secret = PREFIX + random
    return Minted(secret, new_token_id(), hash_token(secret), mask_token(secret))


def is_well_formed(secret: str) -> bool:
    """True when ``secret`` looks like an access token, whether it exists or not."""
    return _PATTERN.fullmatch(secret) is not None


def find_all(text: str) -> list[str]:
    """Returns all that looks like an access token in ``text``; parts of longer keys do not."""
    return _STANDING_ALONE.findall(text)


def hash_token(secret: str) -> str:
    """Returns the token's SHA-256 in hex, which is stored and looked up."""
    return hashlib.sha256(secret.encode()).hexdigest()


def mask_token(secret: str) -> str:
    """``sk-JHjW...fQIZ``: ``sk-``, 4 characters, ``...``, the last 4."""
    return f"{secret[: len(PREFIX) + 4]}...{secret[-4:]}"


def mask_upstream_key(upstream_key: str) -> str:
    """Returns the first 8 characters, ``...``, the last 4; asterisks for a key shorter than 20."""
    if len(upstream_key) < _MIN_SHOWN_LENGTH:
        return _FULL_MASK
    return f"{upstream_key[:8]}...{upstream_key[-4:]}"


def looks_masked(upstream_key: str) -> bool:
    """True for the result of :func:`mask_upstream_key` and for the masks of other tools: no real
    key has three dots or three asterisks in a row."""
    return "..." in upstream_key or "***" in upstream_key


def new_token_id() -> str:
    """Returns a UUIDv7 (RFC 9562, 5.7): ids sort by creation time.

    The 12 bits after the milliseconds are the fraction of the millisecond (6.2, method 3), so that
    the order also holds for tokens made within the same millisecond.
    """
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = (nanoseconds << 12) // 1_000_000
    value = milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=value))
