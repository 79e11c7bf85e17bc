"""The cipher: nothing decrypts but the right cell with the right key, and nothing leaks."""

import base64
import hmac

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.core.errors import CipherError
from proxy.crypto.cipher import Cipher

KEY = bytes(range(32))
OTHER = bytes(range(1, 33))
SECRET = "sk-upstream-0123456789"
CELL = {"table": "projects", "column": "upstream_key", "row_id": "1"}


@given(st.text())
def test_what_goes_in_comes_out(plaintext: str) -> None:
    stored = Cipher(KEY).encrypt(plaintext, **CELL)
    assert Cipher(KEY).decrypt(stored, **CELL) == plaintext


def test_the_stored_form() -> None:
    cipher = Cipher(KEY)
    version, key_id, encoded = cipher.encrypt(SECRET, **CELL).split(":")
    assert version == "v1"
    assert key_id == cipher.key_id
    assert len(key_id) == 8
    assert len(base64.b64decode(encoded, validate=True)) == 12 + len(SECRET) + 16


def test_never_the_same_twice() -> None:
    cipher = Cipher(KEY)
    assert cipher.encrypt(SECRET, **CELL) != cipher.encrypt(SECRET, **CELL)


def test_plaintext_passes_through() -> None:
    cipher = Cipher(KEY)
    assert cipher.decrypt(SECRET, **CELL) == SECRET
    assert not cipher.is_encrypted(SECRET)
    assert cipher.is_encrypted(cipher.encrypt(SECRET, **CELL))


@pytest.mark.parametrize("part", ["table", "column", "row_id"])
def test_a_value_from_another_cell_is_refused(part: str) -> None:
    stored = Cipher(KEY).encrypt(SECRET, **CELL)
    with pytest.raises(CipherError, match="another row"):
        Cipher(KEY).decrypt(stored, **{**CELL, part: "other"})


def test_the_borders_between_table_column_and_row_count() -> None:
    stored = Cipher(KEY).encrypt(SECRET, table="ab", column="c", row_id="d")
    with pytest.raises(CipherError):
        Cipher(KEY).decrypt(stored, table="a", column="bc", row_id="d")


def test_previous_keys_decrypt_but_do_not_encrypt() -> None:
    old = Cipher(OTHER).encrypt(SECRET, **CELL)
    cipher = Cipher(KEY, [OTHER])
    assert cipher.decrypt(old, **CELL) == SECRET
    assert not cipher.is_current(old)
    new = cipher.encrypt(SECRET, **CELL)
    assert cipher.is_current(new)
    assert Cipher(KEY).decrypt(new, **CELL) == SECRET


def test_an_unknown_key_is_named_by_its_id() -> None:
    stored = Cipher(OTHER).encrypt(SECRET, **CELL)
    with pytest.raises(CipherError, match=Cipher(OTHER).key_id):
        Cipher(KEY).decrypt(stored, **CELL)


#: Once, since a nonce makes it another one each time, and examples must be the same when repeated.
STORED = Cipher(KEY).encrypt(SECRET, **CELL)


@given(st.integers(len("v1:"), len(STORED) - 1), st.sampled_from("Aa0:/+=é"))
def test_any_changed_character_is_noticed(position: int, letter: str) -> None:
    assume(letter != STORED[position])
    with pytest.raises(CipherError):
        Cipher(KEY).decrypt(STORED[:position] + letter + STORED[position + 1 :], **CELL)


def test_a_letter_that_decodes_to_the_same_bytes_is_a_change() -> None:
    ending = STORED.rstrip("=")
    padding = STORED[len(ending) :]
    assert padding, "the plaintext has a length that leaves bits unused"
    same_bytes = ending[:-1] + chr(ord(ending[-1]) + 1) + padding
    encoded = [stored.rpartition(":")[2] for stored in (STORED, same_bytes)]
    assert base64.b64decode(encoded[0]) == base64.b64decode(encoded[1])
    with pytest.raises(CipherError, match="damaged"):
        Cipher(KEY).decrypt(same_bytes, **CELL)


@pytest.mark.parametrize("stored", ["v1:", "v1:x", "v1:{}:", "v1:{}:AAAA", "v1:{}:not base64"])
def test_damaged_values_are_refused(stored: str) -> None:
    cipher = Cipher(KEY)
    with pytest.raises(CipherError):
        cipher.decrypt(stored.format(cipher.key_id), **CELL)


def test_neither_repr_nor_errors_show_a_secret() -> None:
    cipher = Cipher(KEY, [OTHER])
    shown = repr(cipher)
    stored = Cipher(b"x" * 32).encrypt(SECRET, **CELL)
    with pytest.raises(CipherError) as caught:
        cipher.decrypt(stored, **CELL)
    shown += str(caught.value)
    for secret in (repr(KEY), KEY.hex(), base64.b64encode(KEY).decode(), SECRET, stored[12:]):
        assert secret not in shown


def test_keys_have_32_bytes() -> None:
    with pytest.raises(ValueError, match="32"):
        Cipher(b"short")
    with pytest.raises(ValueError, match="32"):
        Cipher(KEY, [b"short"])


def test_the_same_key_twice_is_fine() -> None:
    Cipher(KEY, [KEY, OTHER])


def test_key_ids_are_told_the_newest_first() -> None:
    cipher = Cipher(KEY, [OTHER, KEY])
    assert cipher.key_ids == (cipher.key_id, Cipher(OTHER).key_id)
    assert cipher.key_id_of(Cipher(OTHER).encrypt(SECRET, **CELL)) == Cipher(OTHER).key_id


@pytest.mark.parametrize(
    "stored", ["", SECRET, "v1:", "v1:abc", "v1:0123456x:AA==", "v1:01234567:"]
)
def test_what_is_no_ciphertext_has_no_key_id(stored: str) -> None:
    assert Cipher.key_id_of(stored) is None


def test_an_error_shows_nothing_of_what_only_looks_like_a_ciphertext() -> None:
    with pytest.raises(CipherError) as caught:
        Cipher(KEY).decrypt(f"v1:{SECRET}:", **CELL)
    assert SECRET[:8] not in str(caught.value)


class TestDerived:
    """Keys for other purposes, of the same root."""

    def test_each_purpose_has_a_key_of_its_own(self) -> None:
        one, two = Cipher.derived("one", KEY), Cipher.derived("two", KEY)
        stored = one.encrypt(SECRET, **CELL)
        assert Cipher.derived("one", KEY).decrypt(stored, **CELL) == SECRET
        for other in (two, Cipher(KEY), Cipher.derived("one", OTHER)):
            with pytest.raises(CipherError):
                other.decrypt(stored, **CELL)
        assert len({one.key_id, two.key_id, Cipher(KEY).key_id}) == 3

    def test_previous_keys_decrypt(self) -> None:
        stored = Cipher.derived("one", OTHER).encrypt(SECRET, **CELL)
        assert Cipher.derived("one", KEY, [OTHER]).decrypt(stored, **CELL) == SECRET

    def test_it_is_hkdf_sha256(self) -> None:
        """RFC 5869 by hand: what was written has to be readable for as long as it is kept."""
        extracted = hmac.digest(bytes(32), KEY, "sha256")
        expected = hmac.digest(extracted, b"openai-proxy one" + b"\x01", "sha256")
        assert Cipher.derived("one", KEY).key_id == Cipher(expected).key_id
