"""Encryption of short-lived bytes: AES-256-GCM, bound to the place that holds them.

:class:`proxy.crypto.cipher.Cipher` writes text for cells of the database. This writes bytes, for
stores that hold thousands of them and forget them by themselves.

Random nonces are safe for 2**32 encryptions under one key (NIST SP 800-38D, 8.3). A cache of a
large installation could reach that, so each day has a key of its own, derived from the secret.

Layout: u32 day of the key (days since 1970, little-endian) · 12 bytes nonce · ciphertext · 16 bytes
tag.
"""

import os
import struct
import time
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from proxy.core.errors import CipherError

_DAY: Final = struct.Struct("<I")
_DAY_SECONDS: Final = 86_400
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_HEAD_BYTES: Final = _DAY.size + _NONCE_BYTES
#: Bytes by which a sealed value is longer than the plain one.
OVERHEAD: Final = _HEAD_BYTES + _TAG_BYTES
#: Derived keys that are kept. A forged value may name any day.
_MAX_KEYS: Final = 64


class Sealer:
    """Seals and opens bytes for one purpose.

    Args:
        secret: 32 bytes or more, the same in all processes that share the sealed values.
        label: Names the purpose. What is sealed for one purpose does not open for another.
    """

    def __init__(
        self, secret: bytes, label: str, *, clock: Callable[[], float] = time.time
    ) -> None:
        if len(secret) < 32:
            raise ValueError(f"the secret of a sealer has 32 bytes or more, not {len(secret)}")
        self._secret = secret
        self._label = b"openai-proxy sealer " + label.encode() + b"\0"
        self._clock = clock
        self._keys: dict[bytes, AESGCM] = {}

    def seal(self, plain: bytes, place: bytes) -> bytes:
        """Return `plain` sealed for `place`. Never the same twice."""
        day = _DAY.pack(int(self._clock() // _DAY_SECONDS))
        nonce = os.urandom(_NONCE_BYTES)
        return b"".join((day, nonce, self._key(day).encrypt(nonce, plain, place)))

    def open(self, sealed: bytes | memoryview, place: bytes) -> bytes:
        """Return what was sealed for `place`.

        Raises CipherError for a value that was changed, cut, sealed for another place, or sealed
        with another secret.
        """
        if len(sealed) < OVERHEAD:
            raise CipherError("A sealed value is cut.")
        view = memoryview(sealed)
        try:
            return self._key(bytes(view[: _DAY.size])).decrypt(
                view[_DAY.size : _HEAD_BYTES], view[_HEAD_BYTES:], place
            )
        except InvalidTag as error:
            raise CipherError("A sealed value was changed, or belongs elsewhere.") from error

    def _key(self, day: bytes) -> AESGCM:
        key = self._keys.get(day)
        if key is None:
            derive = HKDF(algorithm=SHA256(), length=32, salt=None, info=self._label + day)
            key = AESGCM(derive.derive(self._secret))
            if len(self._keys) >= _MAX_KEYS:
                self._keys.clear()
            self._keys[day] = key
        return key
