"""Names of keys: the same for all workers of a node, and no use to whoever has the log."""

import hashlib
import os
import re
from pathlib import Path

import pytest

from proxy.crypto.fingerprints import FILE, Fingerprinter

KEY = "sk-proj-0123456789abcdefABCDEF"


def test_a_key_has_one_name_as_long_as_the_secret_lasts(tmp_path: Path) -> None:
    name = Fingerprinter.load(tmp_path).fingerprint(KEY)
    assert re.fullmatch("key-[0-9a-f]{16}", name)
    assert Fingerprinter.load(tmp_path).fingerprint(KEY) == name
    assert Fingerprinter.load(tmp_path).fingerprint(KEY + "x") != name
    (tmp_path / FILE).unlink()
    assert Fingerprinter.load(tmp_path).fingerprint(KEY) != name


def test_it_is_no_plain_hash_and_shows_nothing(tmp_path: Path) -> None:
    name = Fingerprinter.load(tmp_path).fingerprint(KEY).removeprefix("key-")
    for algorithm in ("sha256", "sha1", "md5"):
        assert not hashlib.new(algorithm, KEY.encode()).hexdigest().startswith(name)
    assert not {KEY[i : i + 4] for i in range(len(KEY) - 4)} & {
        name[i : i + 4] for i in range(len(name) - 4)
    }


def test_whatever_bytes_a_header_may_hold(tmp_path: Path) -> None:
    names = Fingerprinter.load(tmp_path)
    assert names.fingerprint("ÿ\x80 ") != names.fingerprint("ÿ\x80")


def test_the_secret_is_its_owner_s_alone_and_nothing_else_is_left(tmp_path: Path) -> None:
    Fingerprinter.load(tmp_path)
    (file,) = tmp_path.iterdir()
    assert (file.name, file.stat().st_mode & 0o777, file.stat().st_size) == (FILE, 0o600, 32)


def test_workers_that_start_together_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one makes the file while this one writes its own."""
    others: list[str] = []
    real = os.fsync

    def meanwhile(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", real)
        others.append(Fingerprinter.load(tmp_path).fingerprint(KEY))

    monkeypatch.setattr(os, "fsync", meanwhile)
    assert [Fingerprinter.load(tmp_path).fingerprint(KEY)] == others


@pytest.mark.parametrize("content", [b"", b"short"])
def test_a_damaged_secret_stops_nobody_and_is_told(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).write_bytes(content)
    names = Fingerprinter.load(tmp_path)
    assert names.fingerprint(KEY) == names.fingerprint(KEY)
    assert FILE in caplog.text
    assert (tmp_path / FILE).read_bytes() == content


def test_a_full_disk_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert Fingerprinter.load(tmp_path).fingerprint(KEY).startswith("key-")
    assert "No space left" in caplog.text
    assert list(tmp_path.iterdir()) == []
