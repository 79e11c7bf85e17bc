"""Encryption of upstream keys at rest: AES-256-GCM, bound to the cell that stores the ciphertext.

Note: the associated data is table, column and row id, so a ciphertext copied to another row does
not decrypt. Code that moves or re-keys rows must decrypt for the old cell and encrypt for the new
one.
"""

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from proxy.core.errors import CipherError

_PREFIX: Final = "v1:"
_NONCE_BYTES: Final = 12  # 96 bits: the length GCM takes without hashing it (NIST SP 800-38D, 8.2)
_TAG_BYTES: Final = 16
_KEY_ID: Final = re.compile(r"[0-9a-f]{8}")
_FORM: Final = re.compile(rf"v1:({_KEY_ID.pattern}):[A-Za-z0-9+/]+={{0,2}}")


class Cipher:
    """Encrypts with one key; decrypts with it and with every ``previous`` one.

    Stored form: ``v1:<key id>:<base64 of nonce + ciphertext + tag>``, where the key id is 8 hex
    digits derived from the key. Keys are 32 bytes. Random nonces are safe for 2**32 encryptions
    under one key.

    Raises ValueError for a key of another length, and for two different keys with the same id.
    """

    def __init__(self, encryption_key: bytes, previous: Sequence[bytes] = ()) -> None:
        self._keys: dict[str, AESGCM] = {}
        known: dict[str, bytes] = {}
        for key in (encryption_key, *previous):
            if len(key) != 32:
                raise ValueError(f"an encryption key has 32 bytes, not {len(key)}")
            key_id = _key_id(key)
            if known.setdefault(key_id, key) != key:
                raise ValueError(f"two encryption keys have the same id {key_id}: make a new one")
            self._keys[key_id] = AESGCM(key)
        self.key_id = _key_id(encryption_key)

    @classmethod
    def derived(cls, label: str, encryption_key: bytes, previous: Sequence[bytes] = ()) -> "Cipher":
        """A cipher for another purpose, whose keys are derived from these by HKDF-SHA256 (RFC 5869)
        with ``label``: nothing encrypted for one purpose decrypts for another."""

        def derive(key: bytes) -> bytes:
            info = b"openai-proxy " + label.encode()
            return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(key)

        return cls(derive(encryption_key), [derive(key) for key in previous])

    def __repr__(self) -> str:
        return f"Cipher(key_id={self.key_id!r}, previous={len(self._keys) - 1})"

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of all keys that this cipher decrypts with, the newest first."""
        return tuple(self._keys)

    def encrypt(self, plaintext: str, *, table: str, column: str, row_id: str) -> str:
        """Returns ``plaintext`` in the stored form, for this cell only. Never the same twice."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._keys[self.key_id].encrypt(
            nonce, plaintext.encode(), _place(table, column, row_id)
        )
        return f"{_PREFIX}{self.key_id}:{base64.b64encode(nonce + sealed).decode('ascii')}"

    def decrypt(self, stored: str, *, table: str, column: str, row_id: str) -> str:
        """Returns the plaintext of ``stored``. A value that was never encrypted is returned as is.

        Raises CipherError when the key is unknown, or the value is damaged or from another cell.
        """
        if not self.is_encrypted(stored):
            return stored
        cell = f"{table}.{column} of {row_id}"
        key_id, separator, encoded = stored.removeprefix(_PREFIX).partition(":")
        # An invalid key id is not shown: it may be anything, even a key in clear.
        if not separator or not _KEY_ID.fullmatch(key_id):
            raise CipherError(f"The stored value in {cell} is damaged.")
        aead = self._keys.get(key_id)
        if aead is None:
            raise CipherError(
                f"The stored value in {cell} was encrypted with another key (its id is "
                f"{key_id!r}): put that key into ENCRYPTION_KEY or ENCRYPTION_KEYS_PREVIOUS."
            )
        try:
            sealed = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as error:
            raise CipherError(f"The stored value in {cell} is damaged.") from error
        # base64 leaves bits of its last letter unused: another letter there is still a change.
        canonical = base64.b64encode(sealed).decode("ascii") == encoded
        if not canonical or len(sealed) < _NONCE_BYTES + _TAG_BYTES:
            raise CipherError(f"The stored value in {cell} is damaged.")
        nonce, body = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return aead.decrypt(nonce, body, _place(table, column, row_id)).decode()
        except InvalidTag as error:
            raise CipherError(
                f"The stored value in {cell} was changed, or belongs to another row."
            ) from error

    @staticmethod
    def is_encrypted(stored: str) -> bool:
        """False for a plaintext value from before encryption, which is to be rewritten on sight."""
        return stored.startswith(_PREFIX)

    @staticmethod
    def key_id_of(stored: str) -> str | None:
        """Returns the id of the key that ``stored`` needs; None if unencrypted or damaged."""
        match = _FORM.fullmatch(stored)
        return None if match is None else match[1]

    def is_current(self, stored: str) -> bool:
        """True when ``stored`` is encrypted with the newest key, so that key rotation skips it."""
        return stored.startswith(f"{_PREFIX}{self.key_id}:")


def _key_id(key: bytes) -> str:
    # The domain prefix keeps this from being a plain hash of the key, which another program
    # might publish as a fingerprint of its own.
    return hashlib.sha256(b"openai-proxy encryption key id\x00" + key).hexdigest()[:8]


def _place(table: str, column: str, row_id: str) -> bytes:
    # Each part has its length in front: ("ab", "c") and ("a", "bc") must differ.
    parts = [part.encode() for part in ("v1", table, column, row_id)]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
