"""Making, recognising, hashing and masking secrets: access tokens and upstream keys.

The thing to get right: the format check is the pattern and nothing finer, so that tokens which
an older version minted stay good. Only the hash of an access token is ever stored; a plain
SHA-256 is enough, for there are 128 random bits to guess (no dictionary helps).
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
#: Shorter upstream keys are masked as a whole: head and tail would be most of them.
_SHOWN_FROM: Final = 20
_FULL_MASK: Final = "*" * 8  # always as long, so that it does not tell how long the key is


@dataclass(frozen=True, slots=True)
class Minted:
    """A new access token. All but the secret is stored."""

    secret: str = field(repr=False)
    token_id: str
    token_hash: str
    token_mask: str


def mint() -> Minted:
    """A secret of ``sk-`` and 128 random bits as 22 characters of base64url, and what is kept."""
    random = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode("ascii").rstrip("=")
    secret = PREFIX + random
    return Minted(secret, new_token_id(), hash_token(secret), mask_token(secret))


def is_well_formed(secret: str) -> bool:
    """True when ``secret`` looks like an access token, whether it exists or not."""
    return _PATTERN.fullmatch(secret) is not None


def hash_token(secret: str) -> str:
    """SHA-256 of the token in hex: what is stored and looked up."""
    return hashlib.sha256(secret.encode()).hexdigest()


def mask_token(secret: str) -> str:
    """``sk-JHjW...fQIZ``: ``sk-``, 4 characters, ``...``, the last 4."""
    return f"{secret[: len(PREFIX) + 4]}...{secret[-4:]}"


def mask_upstream_key(upstream_key: str) -> str:
    """The first 8 characters, ``...``, the last 4; nothing of a key shorter than 20."""
    if len(upstream_key) < _SHOWN_FROM:
        return _FULL_MASK
    return f"{upstream_key[:8]}...{upstream_key[-4:]}"


def looks_masked(upstream_key: str) -> bool:
    """True for what :func:`mask_upstream_key` makes, and for the masks of other tools: nobody's
    real key has three dots or three asterisks in a row."""
    return "..." in upstream_key or "***" in upstream_key


def new_token_id() -> str:
    """A UUIDv7 (RFC 9562, 5.7): ids sort by when they were made.

    The 12 bits behind the milliseconds are the fraction of the millisecond (6.2, method 3), so
    that the order holds for tokens made within the same one.
    """
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = (nanoseconds << 12) // 1_000_000
    value = milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=value))
